//! A host's data path at layer 7, while it has mirrors or canaries: copies requests, shares them out, counts them.
//!
//! | file | what is in it |
//! |---|---|
//! | `collector` | the thread beside the data path that compares answers |

pub mod collector;
