//! `world::watch`: the kernel's notifications about nf_tables; legacy iptables has none and is looked at.
//!
//! At rest it costs one wake-up every half minute. Where rules are in legacy iptables, two short programs every 0.9 s.

use std::os::fd::OwnedFd;
use std::time::Duration;

use async_trait::async_trait;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::socket::SockProtocol;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::Instant;

use super::iptables;
use super::netlink::{self, BUFFER};
use crate::model::rules::{Family, Table};
use crate::world::watch::{RuleSubscription, RuleWatch};

mod wire;

/// `NFNLGRP_NFTABLES` (linux/netfilter/nfnetlink.h) is 7: the seventh bit of the groups in an address.
const NFTABLES_GROUP: u32 = 1 << 6;
/// The rules are read after this interval, also when the kernel reported no change.
const FULL_CHECK_INTERVAL: Duration = Duration::from_secs(30);
/// The interval between two reads of legacy rules: half of it, and a repair, stay within a second.
const LEGACY_CHECK_INTERVAL: Duration = Duration::from_millis(900);
/// A burst (an `iptables-restore`, the start of Docker) is over when the kernel reported nothing for this long, or after
/// `BURST_TIMEOUT`.
const BURST_GAP: Duration = Duration::from_millis(30);
const BURST_TIMEOUT: Duration = Duration::from_millis(300);

/// The rules of the network namespace that the calling thread is in.
#[derive(Debug)]
pub struct KernelRules;

impl RuleWatch for KernelRules {
    fn start(&self) -> Box<dyn RuleSubscription> {
        let events = subscribe();
        if let Err(why) = &events {
            log::warn!(
                "cannot subscribe to rule changes, reading the rules every {LEGACY_CHECK_INTERVAL:?} instead: {why}"
            );
        }
        Box::new(KernelSubscription { events: events.ok(), last_legacy: None })
    }
}

struct KernelSubscription {
    events: Option<AsyncFd<OwnedFd>>,
    /// The legacy nat tables at the last look.
    last_legacy: Option<Vec<Option<Table>>>,
}

fn subscribe() -> std::io::Result<AsyncFd<OwnedFd>> {
    let netlink = netlink::subscribe(SockProtocol::NetlinkNetFilter, NFTABLES_GROUP)?;
    let flags = OFlag::from_bits_truncate(fcntl(&netlink, FcntlArg::F_GETFL)?);
    fcntl(&netlink, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    #[allow(
        deprecated,
        reason = "unsound for types that give another descriptor each time; its successor is `unsafe`"
    )]
    AsyncFd::with_interest(netlink, Interest::READABLE)
}

#[async_trait]
impl RuleSubscription for KernelSubscription {
    async fn wait_for_change(&mut self, legacy: bool) {
        let slow = tokio::time::sleep(if self.events.is_some() {
            FULL_CHECK_INTERVAL
        } else {
            LEGACY_CHECK_INTERVAL
        });
        tokio::pin!(slow);
        let mut fast =
            tokio::time::interval_at(Instant::now() + LEGACY_CHECK_INTERVAL, LEGACY_CHECK_INTERVAL);
        loop {
            tokio::select! {
                () = wait_for_nat_change(self.events.as_ref()) => return self.wait_for_burst_end().await,
                _ = fast.tick(), if legacy => if check_legacy_changed(&mut self.last_legacy).await {
                    return;
                },
                () = &mut slow => return,
            }
        }
    }
}

impl KernelSubscription {
    async fn wait_for_burst_end(&self) {
        let burst = async {
            while tokio::time::timeout(BURST_GAP, wait_for_nat_change(self.events.as_ref())).await.is_ok() {}
        };
        let _ = tokio::time::timeout(BURST_TIMEOUT, burst).await;
    }
}

/// Returns when the kernel reported a change of a nat table, or more changes than the socket's buffer holds.
async fn wait_for_nat_change(events: Option<&AsyncFd<OwnedFd>>) {
    let Some(events) = events else { return std::future::pending().await };
    let mut buffer = vec![0; BUFFER];
    loop {
        // A descriptor the runtime cannot wait for any more is not waited for: the slow look remains.
        let Ok(mut ready) = events.readable().await else { return std::future::pending().await };
        match netlink::receive(events.get_ref(), &mut buffer) {
            Ok(length) if !wire::is_nat_change(&buffer[..length]) => {}
            Err(Errno::EAGAIN) => ready.clear_ready(),
            Err(Errno::EINTR) => {}
            // ENOBUFS: the kernel reported more than the socket's buffer holds.
            Ok(_) | Err(_) => return,
        }
    }
}

/// Whether the legacy rules are other ones than at the last look; yes at the first.
async fn check_legacy_changed(last: &mut Option<Vec<Option<Table>>>) -> bool {
    let looks = [Family::V4, Family::V6].map(iptables::read_legacy_nat);
    let now: Result<Vec<_>, _> = futures_util::future::join_all(looks).await.into_iter().collect();
    match now {
        Ok(now) if last.as_ref() == Some(&now) => false,
        Ok(now) => {
            *last = Some(now);
            true
        }
        Err(why) => {
            log::debug!("legacy rules cannot be looked at: {why}");
            false
        }
    }
}

#[cfg(test)]
mod tests;
