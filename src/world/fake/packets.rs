//! A packet probe that returns what a test prescribes.

use std::net::SocketAddr;
use std::sync::Mutex;

use async_trait::async_trait;

use crate::model::packet_proof::PacketAnswer;
use crate::model::ports::Port;
use crate::world::packet_probe::{PacketAnswers, PacketProbe, PacketProbeError};

/// Without a prescribed answer, this machine has no TUN device.
#[derive(Default)]
pub struct FakePackets {
    pub answer: Mutex<Option<PacketAnswer>>,
    pub listeners: Mutex<Vec<SocketAddr>>,
    /// The list of listeners cannot be read.
    pub is_unreadable: Mutex<bool>,
}

#[async_trait]
impl PacketProbe for FakePackets {
    async fn connect(&self, addresses: &[SocketAddr]) -> Result<PacketAnswers, PacketProbeError> {
        match &*self.answer.lock().unwrap() {
            Some(answer) => Ok(addresses.iter().map(|_| Ok(answer.clone())).collect()),
            None => Err(PacketProbeError { action: "create a TUN device".into(), why: "a fake".into() }),
        }
    }

    fn list_listening_addresses(&self, port: Port) -> Result<Vec<SocketAddr>, PacketProbeError> {
        if *self.is_unreadable.lock().unwrap() {
            let action = "read the kernel's table of sockets".into();
            return Err(PacketProbeError { action, why: "a fake".into() });
        }
        let all = self.listeners.lock().unwrap();
        Ok(all.iter().filter(|address| address.port() == port.get()).copied().collect())
    }
}
