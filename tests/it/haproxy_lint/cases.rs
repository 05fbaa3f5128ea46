//! Configurations that are generated from a sound one: changes of meaning, and other spellings of the same meaning.

use std::fmt::Write as _;

use super::vhosts::{BACKUP, CHECK, HOSTS, MAIN};

/// Pseudo-random numbers (splitmix64), the same on every machine.
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((mixed ^ (mixed >> 31)) % limit as u64).unwrap()
    }
}

#[derive(Debug, Clone)]
pub struct Case {
    /// The changes that were made, for messages.
    pub changes: Vec<&'static str>,
    defaults: Vec<String>,
    section: Vec<String>,
    /// Another section that reaches the hosts.
    other: Vec<String>,
}

/// Part of every configuration.
pub const GLOBAL: &str = "global\n stats socket /run/haproxy/admin.sock mode 600 level admin\n \
                          server-state-file /nonexistent/servers.state\n maxconn 4000\n\n";

impl Case {
    fn sound() -> Self {
        let defaults = [
            "mode http",
            "timeout connect 1s",
            "timeout client 30s",
            "timeout server 30s",
            "timeout queue 1s",
            "timeout tunnel 30s",
            "timeout check 300ms",
            "load-server-state-from-file global",
            "retries 3",
            "option redispatch 1",
            "default-server inter 500ms fastinter 100ms fall 2 rise 1 weight 100",
        ];
        let section = [
            "balance roundrobin",
            "cookie SERVER_ID insert indirect nocache",
            "option httpchk",
            "http-check send meth GET uri /health ver HTTP/1.1 hdr Host shop.example",
            "http-check expect status 200",
            "option allbackups",
        ];
        let mut section = section.map(str::to_owned).to_vec();
        for (host, address) in HOSTS {
            section.push(format!("server main-{host} {address}:{MAIN} check port {CHECK} cookie {host}"));
            section.push(format!(
                "server backup-{host} {address}:{BACKUP} check port {BACKUP} cookie {host} backup"
            ));
        }
        Self { changes: vec![], defaults: defaults.map(str::to_owned).to_vec(), section, other: vec![] }
    }

    pub fn generate(random: &mut Random) -> Self {
        let mut case = Self::sound();
        for _ in 0..[0, 1, 1, 1, 2][random.below(5)] {
            let (label, apply) = CHANGES[random.below(CHANGES.len())];
            // HAProxy refuses a check that has a port neither of the line nor of its own.
            let is_refused = ["no port", "relative port"].iter().any(|own| case.changes.contains(own))
                || (label.ends_with(" port")
                    && ["check of the data port", "check port is a word"]
                        .iter()
                        .any(|own| case.changes.contains(own)));
            let is_possible = !is_refused || !label.contains("port");
            if is_possible && !case.changes.contains(&label) {
                case.changes.push(label);
                apply(&mut case);
            }
        }
        for _ in 0..random.below(4) {
            let (label, apply) = SPELLINGS[random.below(SPELLINGS.len())];
            if !case.changes.contains(&label) {
                case.changes.push(label);
                apply(&mut case);
            }
        }
        case
    }

    pub const fn has_other(&self) -> bool {
        !self.other.is_empty()
    }

    /// The sections under a name, listening at a port; the other one listens at the next port.
    pub fn render(&self, name: &str, port: u16) -> String {
        let join = |lines: &[String]| lines.iter().map(|line| format!("  {line}\n")).collect::<String>();
        let mut text = format!("defaults of-{name}\n{}", join(&self.defaults));
        for (suffix, port, lines) in [("", port, &self.section), ("-other", port + 1, &self.other)] {
            if !lines.is_empty() {
                let lines = join(lines).replace("{name}", name);
                let _ =
                    writeln!(text, "listen {name}{suffix} from of-{name}\n  bind 127.0.0.1:{port}\n{lines}");
            }
        }
        text
    }

    fn add(&mut self, line: &str) {
        self.section.insert(1, line.to_owned());
    }

    /// Replaces in the lines of the section that contain the key; something has to change, unless another change was first.
    fn replace(&mut self, key: &str, from: &str, to: &str) {
        for line in self.section.iter_mut().filter(|line| line.contains(key)) {
            *line = line.replace(from, to);
        }
    }

    fn on_main1(&mut self, more: &str) {
        self.replace("server main-web1 ", " cookie", &format!(" {more} cookie"));
    }

    fn on_all(&mut self, more: &str) {
        self.section.insert(0, format!("default-server {more}"));
    }

    fn drop_line(&mut self, start: &str) {
        self.section.retain(|line| !line.starts_with(start));
        self.defaults.retain(|line| !line.starts_with(start));
    }

    fn other(&mut self, servers: &[&str]) {
        self.other = vec!["option httpchk GET /health".into(), "http-check expect status 200".into()];
        self.other.extend(servers.iter().map(|server| format!("server {server}")));
    }
}

type Change = (&'static str, fn(&mut Case));

const CHANGES: &[Change] = &[
    ("persist", |case| case.add("option persist")),
    ("persist in defaults", |case| case.defaults.push("option persist".into())),
    ("persist taken back", |case| {
        case.defaults.push("option persist".into());
        case.add("no option persist");
    }),
    ("force-persist", |case| case.add("force-persist if TRUE")),
    ("force-persist never", |case| case.add("force-persist unless TRUE")),
    ("ignore-persist", |case| case.add("ignore-persist if TRUE")),
    ("ignore-persist never", |case| case.add("ignore-persist if FALSE")),
    ("stick on src", |case| {
        case.add("stick on src");
        case.add("stick-table type ip size 1k expire 1m");
    }),
    ("stick match only", |case| {
        case.add("stick match src");
        case.add("stick-table type ip size 1k expire 1m");
    }),
    ("stick without backups", |case| {
        case.add("stick on src");
        case.add("stick-table type ip size 1k expire 1m");
        case.replace("server backup-", "1 backup", "1 backup non-stick");
        case.replace("server backup-", "2 backup", "2 backup non-stick");
    }),
    ("backup first", |case| {
        if let Some(at) = case.section.iter().position(|line| line.contains("server main-web1 ")) {
            case.section.swap(at, at + 1);
        }
    }),
    ("backups last", |case| {
        let (backups, mut rest): (Vec<String>, Vec<String>) =
            case.section.drain(..).partition(|line| line.contains("server backup-"));
        rest.extend(backups);
        case.section = rest;
    }),
    ("one cookie", |case| case.replace("-web2 ", "cookie web2", "cookie web1")),
    ("cookies differ", |case| case.replace("server backup-web1 ", "cookie web1", "cookie b1")),
    ("no cookie on backup", |case| case.replace("server backup-web1 ", "cookie web1", "")),
    ("no cookie line", |case| case.drop_line("cookie")),
    ("cookie postonly", |case| case.replace("SERVER_ID", "nocache", "nocache postonly")),
    ("cookie prefix", |case| case.replace("SERVER_ID", "insert indirect nocache", "prefix")),
    ("mode tcp", |case| {
        case.section.retain(|line| !line.starts_with("cookie"));
        case.add("mode tcp");
    }),
    ("no port", |case| case.replace("server main-web1 ", ":8080", "")),
    ("relative port", |case| case.replace("server main-web1 ", ":8080", ":+1")),
    ("wrong port", |case| case.replace("server main-web1 ", ":8080", ":80")),
    ("data on check port", |case| case.replace("server main-web1 ", ":8080", ":8888")),
    ("other host", |case| case.replace("server main-web1 ", "127.0.0.11", "127.0.0.12")),
    ("no check", |case| case.replace("server main-web1 ", "check port 8888", "")),
    ("no-check in defaults", |case| case.on_main1("no-check")),
    ("check of the data port", |case| case.replace("server main-web1 ", "port 8888", "")),
    ("check elsewhere", |case| case.on_main1("addr 127.0.0.12")),
    ("backup checked with main", |case| case.replace("server backup-web1 ", "port 80 ", "port 8888 ")),
    ("backup tracks main", |case| {
        case.replace("server backup-web1 ", "check port 80 ", "no-check track main-web1 ");
    }),
    ("main tracks backup", |case| {
        case.replace("server main-web1 ", "check port 8888", "no-check track {name}/backup-web1");
    }),
    ("main tracks a sound line", |case| {
        case.replace("server main-web1 ", "check port 8888", "no-check track {name}-other/a");
        case.other(&["a 127.0.0.11:8080 check port 8888", "b 127.0.0.12:8080 check port 8888"]);
    }),
    ("send-proxy", |case| case.on_all("send-proxy")),
    ("send-proxy-v2 on main", |case| case.on_main1("send-proxy-v2")),
    ("send-proxy taken back", |case| {
        case.on_all("send-proxy");
        case.section.insert(1, "default-server no-send-proxy".into());
    }),
    ("check-send-proxy", |case| case.on_main1("check-send-proxy")),
    ("ssl", |case| case.on_main1("ssl verify none")),
    ("check-ssl", |case| case.on_main1("check-ssl verify none")),
    ("disabled", |case| case.on_main1("disabled")),
    ("disabled and enabled", |case| case.on_main1("disabled enabled")),
    ("section disabled and enabled", |case| case.add("enabled")),
    ("redir", |case| case.on_main1("redir http://127.0.0.1")),
    ("main is backup", |case| case.on_main1("backup")),
    ("backup is none", |case| case.replace("server backup-web1 ", "1 backup", "1")),
    ("no-backup", |case| case.replace("server backup-web1 ", "1 backup", "1 backup no-backup")),
    ("weight 0 on mains", |case| case.replace("server main-", " cookie", " weight 0 cookie")),
    ("weight 0 on one", |case| case.on_main1("weight 0")),
    ("no allbackups", |case| case.drop_line("option allbackups")),
    ("use-server backup", |case| case.add("use-server backup-web1 if TRUE")),
    ("use-server main", |case| case.add("use-server main-web1 if TRUE")),
    ("use-server never", |case| case.add("use-server backup-web1 if FALSE")),
    ("use-server of testers", |case| case.add("use-server backup-web1 if { hdr(x-test) -m found }")),
    ("cookie removed", |case| case.add("http-request del-header Cookie")),
    ("set-cookie removed", |case| case.add("http-after-response del-header Set-Cookie")),
    ("shutdown-sessions", |case| case.on_all("on-marked-down shutdown-sessions")),
    ("shutdown-backup-sessions", |case| case.on_all("on-marked-up shutdown-backup-sessions")),
    ("no retries", |case| {
        case.drop_line("retries");
        case.add("retries 0");
    }),
    ("no redispatch", |case| case.drop_line("option redispatch")),
    ("observe", |case| case.on_all("observe layer7")),
    ("slowstart", |case| case.on_main1("slowstart 2s")),
    ("prefer-last-server", |case| case.add("option prefer-last-server")),
    ("connect elsewhere", |case| {
        case.replace("http-check send", "http-check send", "http-check connect port 8080\n  http-check send");
    }),
    ("check connects with TLS", |case| {
        case.replace("http-check send", "http-check send", "http-check connect ssl\n  http-check send");
    }),
    ("check connects with PROXY", |case| {
        case.replace(
            "http-check send",
            "http-check send",
            "http-check connect send-proxy\n  http-check send",
        );
    }),
    ("check connects as the line", |case| {
        case.replace("http-check send", "http-check send", "http-check connect default\n  http-check send");
    }),
    ("check by HTTP/2", |case| case.on_main1("check-proto h2")),
    ("traffic by HTTP/2", |case| case.on_main1("proto h2 check-proto h1")),
    ("check port is a word", |case| case.on_main1("port http")),
    ("check port has a tail", |case| case.on_main1("port 8888x")),
    ("check port in 17 bits", |case| case.on_main1("port 74424")),
    ("weight is a word", |case| case.on_main1("weight x")),
    ("refusal by state", |case| case.add("http-request return status 503 if !{ srv_is_up(main-web1) }")),
    ("refusal by number", |case| case.add("http-request deny if { nbsrv lt 2 }")),
    ("refusal with none left", |case| case.add("http-request deny if { nbsrv lt 1 }")),
    ("refusal by ACL", |case| {
        case.add("redirect location / if is_out");
        case.add("acl is_out srv_is_up(main-web1) eq 0");
    }),
    ("refusal by variable", |case| {
        case.add("http-request deny if { var(txn.mains) -m int lt 2 }");
        case.add("http-request set-var(txn.mains) nbsrv({name})");
    }),
    ("refusal by another's state", |case| case.add("http-request deny if !{ srv_is_up(backup-web2) }")),
    ("server by state", |case| case.add("use-server backup-web2 if !{ srv_is_up(main-web1) }")),
    ("backend by state", |case| {
        case.add("use_backend {name}-other if !{ srv_is_up(main-web1) }");
        case.other(&["a 127.0.0.11:8080 check port 8888", "b 127.0.0.12:8080 check port 8888"]);
    }),
    ("other by rules", |case| {
        case.other(&["a 0.0.0.0:0"]);
        case.other.push("http-request set-dst ipv4(127.0.0.11)".into());
        case.other.push("http-request set-dst-port int(8080)".into());
    }),
    ("same cookie on a stranger", |case| {
        case.section.insert(0, "server stranger 127.0.0.12:80 cookie web1".into());
    }),
    ("unchecked canary", |case| case.add("server canary 127.0.0.11:8080")),
    ("other unchecked", |case| case.other(&["a 127.0.0.11:8080", "b 127.0.0.12:8080"])),
    ("other checks the data port", |case| {
        case.other(&["a 127.0.0.11:8080 check", "b 127.0.0.12:8080 check"]);
    }),
    ("other checked", |case| {
        case.other(&["a 127.0.0.11:8080 check port 8888", "b 127.0.0.12:8080 check port 8888"]);
    }),
    ("other tracks", |case| {
        case.other(&["a 127.0.0.11:8080 track {name}/main-web1", "b 127.0.0.12:8080 track {name}/main-web2"]);
    }),
    ("other alone", |case| case.other(&["a 127.0.0.11:8080 check port 8888"])),
    ("other with backup", |case| {
        case.other(&["a 127.0.0.11:8080 check port 8888", "b 127.0.0.11:80 backup"]);
    }),
    ("other on the check port", |case| {
        case.other(&["a 127.0.0.11:8888", "b 127.0.0.12:8080 check port 8888"]);
    }),
];

/// Changes that mean the same, so that the verdict stays as it was.
const SPELLINGS: &[Change] = &[
    ("quoted", |case| case.replace("server ", "check", "\"check\"")),
    ("escaped", |case| case.replace("server ", "cookie web", "cook\\x69e 'we'b")),
    ("tabs and a comment", |case| case.replace("server main-", " cookie", "\t \tcookie")),
    ("comment", |case| {
        for line in &mut case.section {
            line.push_str(" # check port 9 backup disabled");
        }
    }),
    ("carriage returns", |case| {
        for line in case.section.iter_mut().chain(&mut case.defaults) {
            line.push('\r');
        }
    }),
    ("default of a variable", |case| {
        case.replace("server main-", "port 8888", "port \"${SWM_LINT_UNSET-8888}\"");
    }),
    ("address from a variable", |case| {
        case.replace("server main-", " 127.0.0.1", " \"${SWM_LINT_UNSET-127.0.0}\".1");
    }),
    ("list of a variable", |case| {
        case.section.insert(0, "no option \"${SWM_LINT_UNSET-persist}\"".into());
    }),
    ("never", |case| case.add(".if 0\n  option persist\n  server x 127.0.0.11:8080\n.endif")),
    ("else", |case| case.add(".if 0 \n  option persist\n.else\n  no option persist\n.endif")),
    ("maxconn", |case| case.on_main1("maxconn 50")),
    ("balance source", |case| case.replace("balance", "roundrobin", "source")),
    ("balance first", |case| case.replace("balance", "roundrobin", "first")),
    ("balance leastconn", |case| case.replace("balance", "roundrobin", "leastconn")),
    ("check in default-server", |case| {
        case.replace("server ", "check port", "port");
        case.section.insert(0, "default-server check".into());
    }),
    ("ipv4@", |case| case.replace("server ", " 127.0.0.1", " ipv4@127.0.0.1")),
    ("latin-1", |case| case.add("# caf\u{e9}")),
];
