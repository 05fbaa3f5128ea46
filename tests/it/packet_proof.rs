//! The packet proof on the real kernel: what `enable-forward`, `disable-forward` and `status` report when rules of other
//! programs decide about the check port. Each test has a network namespace of its own.

use std::net::TcpListener;
use std::process::{Command, Output};

use crate::testing::run_in_namespace;

/// A host with an address of each family and a main vhost on 8080.
struct Stage {
    dir: tempfile::TempDir,
    _main: TcpListener,
}

fn command(program: &str) -> Command {
    #[allow(clippy::disallowed_methods, reason = "a test stands outside the house")]
    Command::new(program)
}

fn sh(script: &str) -> String {
    let output = command("sh").args(["-ec", script]).output().unwrap();
    assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

impl Stage {
    fn new() -> Self {
        sh(
            "ip link add swm-d0 type veth peer name swm-d1; ip link set swm-d1 up; ip addr add 10.9.0.5/24 dev swm-d0; \
            ip addr add fd00:9::5/64 dev swm-d0 nodad; ip link set swm-d0 up",
        );
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("switchman.yaml"), "service: shop\n").unwrap();
        let main = TcpListener::bind("[::]:8080").unwrap();
        Self { dir, _main: main }
    }

    fn run(&self, args: &[&str]) -> Output {
        let mut switchman = command(env!("CARGO_BIN_EXE_switchman"));
        switchman.arg("--config").arg(self.dir.path().join("switchman.yaml"));
        switchman.arg("--state-dir").arg(self.dir.path().join("state"));
        switchman.env("XTABLES_LOCKFILE", self.dir.path().join("xtables.lock"));
        switchman.args(args).args(["--host", "web1"]).output().unwrap()
    }

    /// A directory with the programs of nf_tables only, and with scripts.
    fn link_programs(&self, scripts: &[(&str, &str)]) -> std::path::PathBuf {
        let programs = self.dir.path().join("programs");
        std::fs::create_dir(&programs).unwrap();
        std::fs::copy("/usr/sbin/nft", programs.join("nft")).unwrap();
        std::fs::copy("/usr/sbin/xtables-nft-multi", programs.join("xtables-nft-multi")).unwrap();
        for family in ["iptables", "ip6tables"] {
            for name in ["", "-nft", "-save", "-nft-save", "-restore", "-nft-restore"] {
                let link = programs.join(format!("{family}{name}"));
                std::os::unix::fs::symlink("xtables-nft-multi", link).unwrap();
            }
        }
        for (name, text) in scripts {
            write_script(&programs, name, text);
        }
        programs
    }

    /// Runs it on a host whose usual directories of programs are hidden.
    fn run_with(&self, programs: &std::path::Path, args: &[&str]) -> Output {
        let hide = "export PATH=$1; shift; /usr/bin/mount -t tmpfs none /usr/sbin; exec \"$@\"";
        let mut command = command("unshare");
        command.args(["--mount", "sh", "-ec", hide, "sh"]).arg(programs);
        command.arg(env!("CARGO_BIN_EXE_switchman"));
        command.arg("--config").arg(self.dir.path().join("switchman.yaml"));
        command.arg("--state-dir").arg(self.dir.path().join("state"));
        command.args(args).args(["--host", "web1"]).output().unwrap()
    }

    fn enable(&self) -> Output {
        // Main answers no HTTP here.
        self.run(&["enable-forward", "--no-wait", "--force"])
    }

    fn disable(&self) -> Output {
        self.run(&["disable-forward", "--no-wait", "--force"])
    }
}

fn stdout(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The error of a command that failed, on one line.
fn stderr(output: &Output) -> String {
    assert!(!output.status.success(), "{output:?}");
    let text = String::from_utf8_lossy(&output.stderr);
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn switches_are_proven_in_both_families() {
    run_in_namespace(|| async {
        let stage = Stage::new();
        let on = stdout(&stage.enable());
        assert!(on.contains("; a packet to 8888 is answered by port 8080 (IPv4, IPv6)"), "{on}");
        let status = stdout(&stage.run(&["--output", "json", "status"]));
        assert!(
            status.contains(r#""proof":"packet""#) || status.contains(r#""proof": "packet""#),
            "{status}"
        );
        let off = stdout(&stage.disable());
        assert!(off.contains("; a packet to 8888 is refused (IPv4, IPv6)"), "{off}");
        let status = stdout(&stage.run(&["status"]));
        assert!(status.contains("packet    a packet to 8888 is refused (IPv4, IPv6)"), "{status}");
        assert!(!sh("ip addr; ip route show table all").contains("192.0.2."));
    });
}

/// Docker with `userland-proxy: false`: no process listens, the DNAT alone answers.
/// Source: moby/moby#13024, containerd/nerdctl#4000.
#[test]
fn docker_rule_before_ours_is_named() {
    run_in_namespace(|| async {
        let stage = Stage::new();
        stdout(&stage.enable());
        stdout(&stage.disable());
        sh(
            "iptables -t nat -N DOCKER; iptables -t nat -I PREROUTING -m addrtype --dst-type LOCAL -j DOCKER; \
            iptables -t nat -A DOCKER -p tcp --dport 8888 -j DNAT --to-destination 10.9.0.5:9000",
        );
        let _container = TcpListener::bind("10.9.0.5:9000").unwrap();
        let text = stderr(&stage.disable());
        assert!(
            text.contains(
                "the forward is off, but a packet to port 8888 is answered by `10.9.0.5:9000` (IPv4)"
            ),
            "{text}"
        );
        assert!(text.contains("-A DOCKER -p tcp -m tcp --dport 8888 -j DNAT --to-destination"), "{text}");
        let status = stdout(&stage.run(&["status"]));
        assert!(status.contains("the forward is off, but a packet to port 8888 is answered by"), "{status}");
        let text = stderr(&stage.enable());
        assert!(
            text.contains("the forward is on, but a packet to port 8888 is answered by `10.9.0.5:9000`"),
            "{text}"
        );
    });
}

/// NOTRACK in raw makes every redirect dead: nat is a part of connection tracking. Source: flyingcircusio/fc-nixos#998.
#[test]
fn untracked_port_is_named() {
    run_in_namespace(|| async {
        let stage = Stage::new();
        sh("iptables -t raw -A PREROUTING -p tcp --dport 8888 -j CT --notrack");
        let text = stderr(&stage.enable());
        assert!(text.contains("the forward is on, but a packet to port 8888 is refused (IPv4)"), "{text}");
        assert!(text.contains("-j CT --notrack` turns connection tracking off"), "{text}");
    });
}

#[test]
fn closed_filter_is_named_and_one_by_source_is_unverified() {
    run_in_namespace(|| async {
        let stage = Stage::new();
        sh("iptables -P INPUT DROP; iptables -A INPUT -i lo -j ACCEPT");
        let text = stderr(&stage.enable());
        assert!(text.contains("gets no answer (IPv4): the filter of INPUT refuses port 8080"), "{text}");
        sh("iptables -A INPUT -s 10.0.0.0/8 -p tcp --dport 8080 -j ACCEPT");
        let on = stdout(&stage.run(&["--output", "json", "enable-forward", "--no-wait", "--force"]));
        assert!(on.contains("may depend on its interface or source"), "{on}");
    });
}

/// The filter of firewalld: what the forward translates is accepted, so that HAProxy would mark the host UP, and users are
/// refused. Source: firewalld/firewalld#556.
#[test]
fn data_port_that_a_filter_refuses_is_named() {
    run_in_namespace(|| async {
        let stage = Stage::new();
        sh("nft -f - <<X
table inet firewalld { chain filter_INPUT { type filter hook input priority 10; ct state { established, related } accept
ct status dnat accept
iifname lo accept
ct state invalid drop
tcp dport 22 accept
reject with icmpx admin-prohibited
}; }
X");
        let text = stderr(&stage.enable());
        assert!(text.contains("a packet to the data port 8080 is refused (IPv4): the native rule `inet firewalld filter_INPUT: reject"), "{text}");
        assert!(!text.contains("the forward is on, but"), "the check port is answered: {text}");
        sh("nft insert rule inet firewalld filter_INPUT tcp dport 8080 accept");
        stdout(&stage.enable());
    });
}

/// The packet goes to the address that the configuration has, not to the first one of the host.
#[test]
fn packet_goes_to_the_configured_address() {
    run_in_namespace(|| async {
        let stage = Stage::new();
        sh("ip addr add 10.9.0.6/24 dev swm-d0");
        let config = "service: shop\nhosts: {web1: {address: 10.9.0.6}}\n";
        std::fs::write(stage.dir.path().join("switchman.yaml"), config).unwrap();
        sh("iptables -t nat -A PREROUTING -d 10.9.0.6 -p tcp --dport 8888 -j REDIRECT --to-ports 9000");
        let _other = TcpListener::bind("0.0.0.0:9000").unwrap();
        let local = ["--local", "disable-forward", "--no-wait", "--force"];
        let text = stderr(&stage.run(&local));
        assert!(text.contains("is answered by `10.9.0.6:9000`"), "{text}");
    });
}

#[test]
fn native_rule_is_named_with_its_handle() {
    run_in_namespace(|| async {
        let stage = Stage::new();
        stdout(&stage.enable());
        stdout(&stage.disable());
        let _other = TcpListener::bind("0.0.0.0:9000").unwrap();
        sh("nft -f - <<X
table ip nat {
  set ports { type inet_service; elements = { 8888 }; }
  chain theirs { type nat hook prerouting priority -110; tcp dport @ports redirect to :9000; }
}
X");
        let text = stderr(&stage.disable());
        assert!(text.contains("is answered by `10.9.0.5:9000` (IPv4): the native rule `ip nat theirs: tcp dport @ports redirect"), "{text}");
        let check = String::from_utf8(stage.run(&["check"]).stdout).unwrap();
        assert!(check.contains("nft delete rule ip nat theirs handle"), "{check}");
    });
}

/// A native rule in a chain of iptables, which iptables then cannot print.
/// Source: netbirdio/netbird#2725, containernetworking/plugins#461.
#[test]
fn native_rule_in_a_chain_of_iptables_does_not_stop_a_switch() {
    run_in_namespace(|| async {
        let stage = Stage::new();
        stdout(&stage.enable());
        sh("nft add rule ip nat PREROUTING tcp dport '{ 22, 8888 }' redirect to :9000");
        stdout(&stage.disable());
        let check = String::from_utf8(stage.run(&["check"]).stdout).unwrap();
        assert!(check.contains("iptables cannot print the chain PREROUTING"), "{check}");
        assert!(check.contains("handle"), "{check}");
        let _other = TcpListener::bind("0.0.0.0:9000").unwrap();
        let text = stderr(&stage.disable());
        assert!(
            text.contains("the native rule `ip nat PREROUTING: tcp dport { 22, 8888 } redirect to :9000"),
            "{text}"
        );
    });
}

#[test]
fn mark_with_policy_routing_and_zone_are_named() {
    run_in_namespace(|| async {
        let stage = Stage::new();
        sh("iptables -t mangle -A PREROUTING -p tcp --dport 8888 -j MARK --set-mark 9; \
            ip rule add fwmark 9 table 9 priority 1; ip route add blackhole default table 9; ip rule del priority 0; \
            ip rule add priority 2 table local");
        let text = stderr(&stage.enable());
        assert!(text.contains("gets no answer (IPv4)"), "{text}");
        assert!(text.contains("marks the packet, which may choose another routing table"), "{text}");
    });
}

#[test]
fn process_on_the_check_port_is_named() {
    run_in_namespace(|| async {
        let stage = Stage::new();
        stdout(&stage.enable());
        let _listener = TcpListener::bind("0.0.0.0:8888").unwrap();
        let text = stderr(&stage.disable());
        assert!(text.contains("listens on the check port itself"), "{text}");
    });
}

#[test]
fn host_without_the_device_is_unverified() {
    run_in_namespace(|| async {
        let stage = Stage::new();
        let mut hidden = command("unshare");
        let program = format!(
            "mount --bind /dev/null /dev/net/tun && exec {} --config {1}/switchman.yaml --state-dir {1}/state enable-forward \
             --host web1 --no-wait --force",
            env!("CARGO_BIN_EXE_switchman"),
            stage.dir.path().display()
        );
        let on = stdout(&hidden.args(["--mount", "sh", "-ec", &program]).output().unwrap());
        assert!(
            on.contains("not verified by a packet: IPv4: cannot create a TUN device with `/dev/net/tun`"),
            "{on}"
        );
    });
}

/// A container makes legacy tables, and the host has no legacy iptables. Source: k3s-io/k3s#6649.
#[test]
fn legacy_table_without_its_tool_does_not_stop_a_switch() {
    run_in_namespace(|| async {
        let stage = Stage::new();
        sh("iptables-legacy -w 5 -t nat -L -n > /dev/null");
        let programs = stage.link_programs(&[]);
        let on = stage.run_with(&programs, &["enable-forward", "--no-wait", "--force"]);
        assert!(stdout(&on).contains("is answered by port 8080 (IPv4, IPv6)"), "{on:?}");
        assert!(sh("iptables-nft-save -t nat").contains("switchman:shop:forward"));
        let check = String::from_utf8(stage.run_with(&programs, &["check"]).stdout).unwrap();
        assert!(check.contains("no legacy iptables is installed"), "{check}");
    });
}

/// Switches on and off a host whose IPv6 nat is not to be had.
fn assert_ipv4_alone(stage: &Stage, programs: &std::path::Path, cause: &str) {
    let on = stdout(&stage.run_with(programs, &["enable-forward", "--no-wait", "--force"]));
    assert!(on.contains("a packet to 8888 is answered by port 8080 (IPv4)"), "{on}");
    assert!(on.contains("not verified: IPv6: not covered") && on.contains(cause), "{on}");
    assert!(sh("iptables-nft-save -t nat").contains("switchman:shop:forward"));
    let status = stdout(&stage.run_with(programs, &["status"]));
    assert!(status.contains("not verified: IPv6: not covered") && status.contains(cause), "{status}");
    assert!(!status.contains("differ"), "{status}");
    let check = String::from_utf8(stage.run_with(programs, &["check"]).stdout).unwrap();
    assert!(check.contains("[ipv6-without-rules]") && check.contains(cause), "{check}");
    let off = stdout(&stage.run_with(programs, &["disable-forward", "--no-wait", "--force"]));
    assert!(off.contains("is refused (IPv4, IPv6)"), "{off}");
}

/// A kernel without the IPv6 nat table. Source: wg-easy/wg-easy#1919, subspacecloud/subspace#35.
#[test]
fn host_without_the_ipv6_nat_table_goes_on_with_ipv4() {
    run_in_namespace(|| async {
        let stage = Stage::new();
        let refusal = "#!/bin/sh\necho \"ip6tables v1.8.9 (legacy): can't initialize ip6tables table \\`nat': Table does not exist (do \
                       you need to insmod?)\" >&2\nexit 3\n";
        let names = ["ip6tables-nft-save", "ip6tables-save", "ip6tables-nft-restore", "ip6tables-restore"];
        let programs = stage.link_programs(&names.map(|name| (name, refusal)));
        assert_ipv4_alone(&stage, &programs, "Table does not exist");
    });
}

/// `ip6tables-nft-save` prints nothing and returns 0 where the kernel has no IPv6 nat: only a change fails.
#[test]
fn kernel_that_refuses_ipv6_nat_chains_goes_on_with_ipv4() {
    run_in_namespace(|| async {
        let stage = Stage::new();
        let refusal = "#!/bin/sh\necho 'line 2: CHAIN_ADD failed (Operation not supported): chain PREROUTING' >&2\nexit 4\n";
        let programs =
            stage.link_programs(&[("ip6tables-nft-restore", refusal), ("ip6tables-restore", refusal)]);
        std::fs::rename(programs.join("nft"), programs.join("nft-real")).unwrap();
        let nft = "#!/bin/sh\nif [ \"$1\" = -c ]; then\necho 'Error: Could not process rule: Operation not supported' >&2\nexit 1\n\
                   fi\nexec nft-real \"$@\"\n";
        std::fs::write(programs.join("nft"), nft).unwrap();
        std::fs::set_permissions(programs.join("nft"), std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .unwrap();
        assert_ipv4_alone(&stage, &programs, "Operation not supported");
    });
}

#[test]
fn host_without_ip6tables_goes_on_with_ipv4() {
    run_in_namespace(|| async {
        let stage = Stage::new();
        let programs = stage.link_programs(&[]);
        for name in ["", "-nft", "-save", "-nft-save", "-restore", "-nft-restore"] {
            std::fs::remove_file(programs.join(format!("ip6tables{name}"))).unwrap();
        }
        assert_ipv4_alone(&stage, &programs, "`ip6tables` is not installed");
    });
}

/// `iptables` is the legacy one, the kernel has no legacy tables and no IPv6 nat of nf_tables: IPv4 failed with IPv6.
/// Source: wg-easy/wg-easy#1919.
#[test]
fn legacy_default_without_ipv6_nat_goes_on_with_ipv4() {
    run_in_namespace(|| async {
        let stage = Stage::new();
        let programs = link_legacy_default(&stage);
        let refusal = "#!/bin/sh\necho 'line 2: CHAIN_ADD failed (Operation not supported): chain PREROUTING' >&2\nexit 4\n";
        for name in ["ip6tables-nft-restore", "ip6tables-restore"] {
            write_script(&programs, name, refusal);
        }
        let nft = "#!/bin/sh\nif [ \"$1\" = -c ]; then\necho 'Error: Could not process rule: Operation not supported' >&2\nexit 1\n\
                   fi\nexec nft-real \"$@\"\n";
        std::fs::rename(programs.join("nft"), programs.join("nft-real")).unwrap();
        write_script(&programs, "nft", nft);
        assert_ipv4_alone(&stage, &programs, "Operation not supported");
    });
}

/// Native rules without the program that lists them: nothing is concluded from the half that iptables prints.
/// Source: nft(8), iptables-nft(8); the package `iptables` does not depend on `nftables`.
#[test]
fn host_without_nft_says_that_native_rules_are_not_looked_at() {
    run_in_namespace(|| async {
        let stage = Stage::new();
        sh(
            "nft add table inet theirs; nft 'add chain inet theirs input { type filter hook input priority 0; }'; \
            nft add rule inet theirs input tcp dport 8080 reject with tcp reset",
        );
        let programs = stage.link_programs(&[]);
        std::fs::remove_file(programs.join("nft")).unwrap();
        let on = stdout(&stage.run_with(&programs, &["enable-forward", "--no-wait", "--force"]));
        assert!(
            on.contains("not verified by a packet") && on.contains("native rules are not looked at"),
            "{on}"
        );
        let check = String::from_utf8(stage.run_with(&programs, &["check"]).stdout).unwrap();
        assert!(check.contains("[native-unreadable]") && check.contains("`nft` is not installed"), "{check}");
        // A native rule in the table of iptables, which iptables then does not print.
        sh(
            "nft delete table inet theirs; nft add rule ip nat PREROUTING tcp dport '{ 22, 23 }' redirect to :9000",
        );
        let status = stdout(&stage.run_with(&programs, &["status"]));
        assert!(status.contains("IPv4 nf_tables on"), "{status}");
    });
}

/// A zone of its own for connections that come in: the answers of the host are in zone 0, where nothing translates them.
#[test]
fn conntrack_zone_is_named() {
    run_in_namespace(|| async {
        let stage = Stage::new();
        sh("iptables -t raw -A PREROUTING -j CT --zone 5");
        let text = stderr(&stage.enable());
        assert!(text.contains("the forward is on, but a packet to port 8888"), "{text}");
        assert!(text.contains("-j CT --zone 5"), "{text}");
    });
}

/// Kernels from 6.17 on may be built without legacy tables, on hosts whose `iptables` is still the legacy one.
#[test]
fn kernel_without_legacy_tables_gets_rules_in_nf_tables() {
    run_in_namespace(|| async {
        let stage = Stage::new();
        let programs = link_legacy_default(&stage);
        let on = stage.run_with(&programs, &["enable-forward", "--no-wait", "--force"]);
        assert!(stdout(&on).contains("is answered by port 8080 (IPv4, IPv6)"), "{on:?}");
        let off = stage.run_with(&programs, &["disable-forward", "--no-wait", "--force"]);
        assert!(stdout(&off).contains("is refused (IPv4, IPv6)"), "{off:?}");
    });
}

fn write_script(programs: &std::path::Path, name: &str, text: &str) {
    let path = programs.join(name);
    // Not through a link: all links share one program.
    let _ = std::fs::remove_file(&path);
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
}

/// Programs of a host whose `iptables` is the legacy one, on a kernel without legacy tables.
fn link_legacy_default(stage: &Stage) -> std::path::PathBuf {
    let refusal = "#!/bin/sh\necho \"iptables-legacy-restore v1.8.9 (legacy): can't initialize iptables table \\`nat': Table does \
                   not exist (do you need to insmod?)\" >&2\nexit 3\n";
    let programs = stage.link_programs(&[
        ("iptables-legacy-restore", refusal),
        ("ip6tables-legacy-restore", refusal),
        ("iptables-legacy-save", "#!/bin/sh\nexit 3\n"),
        ("ip6tables-legacy-save", "#!/bin/sh\nexit 3\n"),
        ("iptables-legacy", "#!/bin/sh\nexit 3\n"),
        ("ip6tables-legacy", "#!/bin/sh\nexit 3\n"),
    ]);
    for (link, target) in [("iptables", "iptables-legacy"), ("ip6tables", "ip6tables-legacy")] {
        let link = programs.join(link);
        let _ = std::fs::remove_file(&link);
        std::os::unix::fs::symlink(programs.join(target), link).unwrap();
    }
    programs
}
