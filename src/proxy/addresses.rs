//! The addresses of a version's instances, among which connections and copies are spread.

use std::cell::Cell;
use std::net::SocketAddr;

use crate::model::proxy::Upstream;

/// The addresses of the healthy instances of a version: at least one.
pub struct InstanceAddresses {
    all: Vec<SocketAddr>,
    next: Cell<usize>,
}

impl InstanceAddresses {
    pub fn new(upstream: &Upstream) -> Self {
        Self { all: upstream.addresses().collect(), next: Cell::new(0) }
    }

    /// Lists the addresses in the order in which a client connection tries them: the connection stays with the first one that
    /// accepts it, so that it needs one connection to the version.
    pub fn list_from(&self, turn: usize) -> impl Iterator<Item = SocketAddr> {
        let (before, after) = self.all.split_at(turn % self.all.len());
        after.iter().chain(before).copied()
    }

    /// Returns the address for the next copy.
    pub fn take_next(&self) -> SocketAddr {
        let at = self.next.get();
        self.next.set((at + 1) % self.all.len());
        self.all[at]
    }

    pub fn contains(&self, address: SocketAddr) -> bool {
        self.all.contains(&address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn build_addresses(ports: &[u16]) -> InstanceAddresses {
        let address = |port: &u16| SocketAddr::from(([127, 0, 0, 1], *port));
        let mut all = ports.iter().map(address);
        InstanceAddresses::new(&Upstream {
            deployment: "dp_0123456789".parse().unwrap(),
            version: "1.0.0".parse().unwrap(),
            address: all.next().unwrap(),
            more_addresses: all.collect(),
        })
    }

    #[test]
    fn connections_begin_at_their_turn_and_try_every_instance() {
        let addresses = build_addresses(&[1, 2, 3]);
        let list = |turn| addresses.list_from(turn).map(|one| one.port()).collect::<Vec<_>>();
        assert_eq!((list(0), list(1), list(5)), (vec![1, 2, 3], vec![2, 3, 1], vec![3, 1, 2]));
        assert_eq!(build_addresses(&[7]).list_from(4).map(|one| one.port()).collect::<Vec<_>>(), [7]);
    }

    #[test]
    fn copies_go_to_each_instance_in_turn() {
        let addresses = build_addresses(&[1, 2, 3]);
        let ports: Vec<u16> = (0..4).map(|_| addresses.take_next().port()).collect();
        assert_eq!(ports, [1, 2, 3, 1]);
    }
}
