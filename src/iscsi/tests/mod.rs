//! Scripted byte conversations with one connection.

mod pair;

mod action;
mod attribute;
mod chap;
mod data;
mod digest;
mod login;
mod random;
mod reset;
mod session;
mod unit;
