//! The replicated volume: what happens to a request between the SCSI command and the two disks.

pub mod coordinator;
mod device_watch;
pub mod effect;
mod follower;
mod forward;
mod hold;
pub mod lane;
pub mod messages;
pub mod mutant;
pub mod operator;
pub mod part;
mod patience;
mod posture;
mod primary;
mod resync;
mod work;

#[cfg(test)]
mod tests;
