//! `world::journal_store`: the places that can keep a fleet's journals and its lock.

pub mod consul;
pub mod etcd;
mod exit;
pub mod host;
pub mod keeper;
pub mod kv;
mod no_client;
pub mod open;
pub mod postgres;
pub mod sqlite;
mod token;
