//! From the configuration's rules and the files with secrets to what the target decides by.

use zeroize::Zeroizing;

use super::config::{AccessConfig, ChapConfig, read_chap_secret};
use super::failure::Failure;
use crate::iscsi::chap::{Chap, Credential};
use crate::iscsi::{Access, Rule, View};
use crate::scsi::Target;

/// Reads the secrets. Each must be one that Windows takes.
pub fn open(config: &AccessConfig, target: &Target) -> Result<Access, Failure> {
    let chap = |config: &Option<ChapConfig>| config.as_ref().map(open_chap).transpose();
    let mut rules = Vec::new();
    for initiator in &config.initiators {
        let view = initiator.luns.clone().map(|map| View::new(target, &map)).transpose();
        rules.push(Rule {
            names: initiator.names.clone(),
            networks: initiator.networks.clone(),
            chap: chap(&initiator.chap)?,
            view: view
                .map_err(|error| Failure::usage(error.to_string(), "correct luns in [[target.initiator]]"))?,
        });
    }
    Ok(Access { rules, chap: chap(&config.chap)?, discovery_chap: chap(&config.discovery_chap)? })
}

/// Are the secrets there and good?
pub fn check(config: &AccessConfig) -> Result<(), Failure> {
    config.chaps().try_for_each(|chap| open_chap(chap).map(|_| ()))
}

fn open_chap(config: &ChapConfig) -> Result<Chap, Failure> {
    let credential = |user: &str, path| {
        let secret: Zeroizing<Vec<u8>> = read_chap_secret(path)?;
        Ok(Credential { user: user.to_owned(), secret })
    };
    let initiator = credential(&config.user, &config.secret_file)?;
    let target = config.target.as_ref().map(|(user, path)| credential(user, path)).transpose()?;
    Chap::new(initiator, target, config.algorithms.clone()).map_err(|error| {
        let show = config.secret_file.display();
        Failure::usage(
            format!("CHAP with {show}: {error}"),
            format!("make a secret with: (umask 077; openssl rand -hex 8 > {show}), the same on both nodes"),
        )
    })
}
