//! Scripted byte conversations with one connection.

mod pair;

mod data;
mod login;
mod random;
mod session;
