//! Parses notifications of nf_tables (linux/netfilter/nf_tables.h, `enum nf_tables_msg_types`).

use crate::sys::netlink::{find_attribute, parse_messages};

/// `NFNL_SUBSYS_NFTABLES`, the upper byte of a message's type.
const SUBSYSTEM: u16 = 10;
/// The end of a transaction: names its author, not its content.
const NEWGEN: u16 = SUBSYSTEM << 8 | 15;
/// `struct nfgenmsg`: family, version, resource id.
const NFGENMSG_BYTES: usize = 4;
const NFPROTO_IPV4: u8 = 2;
const NFPROTO_IPV6: u8 = 10;
/// The name of the table in a message about a table, chain, rule, set, element, object or flowtable: the first attribute of
/// each (`NFTA_TABLE_NAME`, `NFTA_CHAIN_TABLE`, `NFTA_RULE_TABLE`, ...).
const NFTA_TABLE: u16 = 1;

/// Whether a datagram reports a change in `ip nat` or `ip6 nat`, the tables of iptables-nft, in which our rules are. A busy
/// set in a table of another program does not concern switchman; a message that is not understood may.
pub(super) fn is_nat_change(datagram: &[u8]) -> bool {
    parse_messages(datagram).into_iter().any(|message| {
        let Ok(message) = message else { return true };
        if message.kind == NEWGEN {
            return false;
        }
        let Some(table) =
            message.body.get(NFGENMSG_BYTES..).and_then(|attributes| find_attribute(attributes, NFTA_TABLE))
        else {
            return true;
        };
        let family = message.body.first().copied().unwrap_or(0);
        message.kind >> 8 != SUBSYSTEM || matches!(family, NFPROTO_IPV4 | NFPROTO_IPV6) && table == b"nat\0"
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::sys::netlink::{build_attribute, build_message};

    fn build_notification(kind: u16, family: u8, table: &[u8]) -> Vec<u8> {
        let body = [
            &[family, 0, 0, 0][..],
            &build_attribute(NFTA_TABLE, table),
            &build_attribute(2, b"PREROUTING\0"),
        ]
        .concat();
        build_message(SUBSYSTEM << 8 | kind, 0, 0, &body)
    }

    #[test]
    fn notifications_match_only_iptables_nat_tables() {
        let generation = build_message(NEWGEN, 0, 0, &[0, 0, 0, 0]);
        for (datagram, touches) in [
            (build_notification(6, NFPROTO_IPV4, b"nat\0"), true),
            (build_notification(2, NFPROTO_IPV6, b"nat\0"), true),
            (build_notification(6, NFPROTO_IPV4, b"filter\0"), false),
            (build_notification(6, 1, b"nat\0"), false),
            (generation.clone(), false),
            (
                [
                    build_notification(12, NFPROTO_IPV4, b"f2b-table\0"),
                    generation,
                    build_notification(7, NFPROTO_IPV4, b"nat\0"),
                ]
                .concat(),
                true,
            ),
            (build_message(SUBSYSTEM << 8 | 6, 0, 0, &[]), true),
            (vec![1; 20], true),
        ] {
            assert_eq!(is_nat_change(&datagram), touches, "{datagram:?}");
        }
    }

    proptest! {
        #[test]
        fn notification_filter_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = is_nat_change(&bytes);
        }
    }
}
