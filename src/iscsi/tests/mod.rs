//! Scripted byte conversations with one connection.

mod pair;

mod data;
mod login;
