//! The modules in reading order. An import may only point down this list (a test enforces it).
//!
//! | module | content | never in it |
//! |---|---|---|
//! | [`cli`] | one file per command: flags -> options -> one op -> render | decisions, safety checks |
//! | [`agent`] | a host's interfaces for other programs: decode -> one op -> encode | decisions |
//! | [`proxy`] | the data path at layer 7: copies requests and shares them out | decisions, what main would wait for |
//! | [`admission`] | which connections the listeners of agent and proxy keep | requests, decisions |
//! | [`lab`] | `switchman lab`: a rehearsal in network namespaces | anything outside names that start with `swm-` |
//! | [`config`] | `switchman.yaml`, flags, environment -> one checked [`model::fleet::Fleet`] | defaults hidden elsewhere |
//! | [`error`] | outcome -> message, hint, exit code | a second such table |
//! | [`ops`] | one story per verb, against the traits of `world`: `fleet` on the operator machine, `host` on a host | programs, sockets, files |
//! | [`lint`] | haproxy.cfg: read as HAProxy reads it, findings | files, the running HAProxy |
//! | [`plan`] | pure decisions: (desired, observed) -> what to do | I/O, clocks, async |
//! | [`templates`] | text that is written for other programs: vhosts, haproxy.cfg, units | I/O |
//! | [`world`] | small traits: firewall, balancer, sockets, probe, store, clock, machine | implementations (fakes only under test) |
//! | [`sys`] | the outside world, one adapter each | decisions |
//! | [`model`] | nouns and invariants | imports from any other module |

pub mod admission;
pub mod agent;
pub mod cli;
pub mod config;
pub mod error;
pub mod lab;
pub mod lint;
pub mod model;
pub mod ops;
pub mod plan;
pub mod proxy;
#[cfg(test)]
mod snapshot;
pub mod sys;
pub mod templates;
pub mod world;
