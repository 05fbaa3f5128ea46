//! `world::firewall` over the iptables programs, in both variants.
//!
//! A switch is one `iptables-*-restore --noflush -w`: one table, one transaction. `--test` is no pre-flight (it accepts
//! bad input) and each table of an input is a transaction of its own (docs/design/measurements.md#m15), so one table a
//! call, then read back.

use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;

use crate::model::native_rule::NativeRule;
use crate::model::rules::{CHAIN, Family, Table, Tables, Transaction, Variant, build_jump_rule};
use crate::world::firewall::{Firewall, FirewallError};

use super::exec::{ExecError, Program, find};

mod native;
mod native_match;
mod save;

/// How long a command waits for the xtables lock: `-w`, without which iptables-legacy 1.8.9 waits for ever
/// (docs/design/measurements.md#m16).
const LOCK_TIMEOUT: Duration = Duration::from_secs(5);
/// Past the lock, a healthy command takes milliseconds.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(20);
/// iptables(8): exit status for a resource problem, such as a lock that was not to be had.
const RESOURCE_PROBLEM: i32 = 4;

/// A table that no iptables tool touches. Translation goes on while the kernel has one chain of type nat, tracking while it
/// has one rule that needs it; else an established connection with translated ports is reset by its next packet
/// (docs/design/measurements.md#m10; measured for
/// `-F`, `-X` and `iptables-restore` of both variants; only `nft flush ruleset` takes it away). Replaced in one
/// transaction, in which neither ceases.
const HOLD_TABLE: &str = "table inet switchman_hold\ndelete table inet switchman_hold\ntable inet switchman_hold {\n\
    chain prerouting {\ntype nat hook prerouting priority -90; policy accept;\n\
    ct state new comment \"switchman: open connections outlive a flush\"\n}\n}\n";

/// The iptables programs of this machine.
#[derive(Debug, Default)]
pub struct Iptables;

#[async_trait]
impl Firewall for Iptables {
    async fn families(&self) -> Result<Vec<Family>, FirewallError> {
        // Empty or absent where IPv6 is switched off (net.ipv6.conf.all.disable_ipv6, ipv6.disable=1): no packet comes by it.
        let addresses = std::fs::read_to_string(build_net_path("if_inet6")).unwrap_or_default();
        Ok(if addresses.trim().is_empty() { vec![Family::V4] } else { vec![Family::V4, Family::V6] })
    }

    async fn nat(&self, family: Family) -> Result<Tables, FirewallError> {
        let mut tables = read_nat(family).await.map_err(|error| to_missing_nat_error(family, error))?;
        let is_empty = |table: &Option<Table>| table.as_ref().is_none_or(|table| !table.has_rules());
        if family == Family::V6
            && is_empty(&tables.nf_tables)
            && is_empty(&tables.legacy)
            && let Err(missing) = check_ipv6_nat().await
        {
            // Where `ip6tables` is the legacy one, its table may be there yet, which only a look at it makes.
            if tables.default != Variant::Legacy {
                return Err(missing);
            }
            let legacy = list_table(family, Variant::Legacy, tables.default, "nat").await;
            tables.legacy = Some(legacy.map_err(|_| missing)?);
        }
        Ok(tables)
    }

    async fn filter(&self, family: Family, variant: Variant) -> Result<Table, FirewallError> {
        if variant == Variant::Legacy && !list_legacy_tables(family).iter().any(|table| table == "filter") {
            return Ok(Table::default());
        }
        list_table(family, variant, detect_default_variant(family).await?, "filter").await
    }

    async fn packet_tables(&self, family: Family) -> Result<Vec<(String, Table)>, FirewallError> {
        let default = detect_default_variant(family).await?;
        let legacy = list_legacy_tables(family);
        let mut tables = Vec::new();
        for table in ["raw", "mangle", "filter"] {
            if legacy.iter().any(|name| name == table) {
                tables.push((table.to_owned(), list_table(family, Variant::Legacy, default, table).await?));
            }
            match list_table(family, Variant::NfTables, default, table).await {
                Ok(listed) => tables.push((table.to_owned(), listed)),
                Err(why) => log::debug!("no table {table} of nf_tables here: {why}"),
            }
        }
        Ok(tables)
    }

    async fn list_hidden_legacy(&self) -> Vec<Family> {
        let mut hidden = Vec::new();
        for family in [Family::V4, Family::V6] {
            let default = detect_default_variant(family).await.unwrap_or(Variant::NfTables);
            if has_legacy_nat(family) && is_hidden(family, default) {
                hidden.push(family);
            }
        }
        hidden
    }

    async fn read_native_rules(&self) -> Result<Vec<NativeRule>, FirewallError> {
        let nft = find("nft").ok_or_else(|| FirewallError::Missing { command: "nft".to_owned() })?;
        // -n: ports as numbers; -s: without counters; -a: with handles. Warnings on stderr name the tables of iptables-nft.
        let list = |options: &[&str]| Program::new(&nft).args(options).args(["list", "ruleset"]);
        let (json, listing) = (list(&["-n", "-j"]), list(&["-n", "-s", "-a"]));
        let (printed, listing) = tokio::try_join!(run(&json, b""), run(&listing, b""))?;
        let json_value = serde_json::from_str(&printed).map_err(|error| FirewallError::Malformed {
            command: json.to_string(),
            line: error.line(),
            found: error.to_string(),
        })?;
        Ok(native::find_rules(&json_value, &listing))
    }

    /// Not owned by a process (`flags owner` would outlive `nft flush ruleset` too): with such a table there, no program
    /// can load a saved ruleset again (EPERM, nft 1.0.6; docs/design/measurements.md#m20).
    async fn preserve_connections(&self) -> Result<(), FirewallError> {
        run(&Program::new("nft").args(["-f", "-"]), HOLD_TABLE.as_bytes()).await.map(|_| ())
    }

    async fn commit(&self, transaction: &Transaction) -> Result<(), FirewallError> {
        let (family, variant) = (transaction.family, transaction.variant);
        let patience = LOCK_TIMEOUT.as_secs().to_string();
        let default = detect_default_variant(family).await?;
        let restore = |variant| {
            build_program(family, variant, default, "restore").args(["--noflush", "-w", patience.as_str()])
        };
        let committed = run(&restore(variant), transaction.text.as_bytes()).await;
        if variant == Variant::Legacy
            && let Err(FirewallError::Failed { stderr, .. }) = &committed
            && stderr.contains("Table does not exist")
        {
            log::warn!("this kernel has no legacy nat table: the rules of {family} go into nf_tables");
            let committed = run(&restore(Variant::NfTables), transaction.text.as_bytes()).await;
            return committed.map(|_| ()).map_err(|error| to_missing_nat_error(family, error));
        }
        committed.map(|_| ())
    }
}

/// Reads the nat tables of both variants.
async fn read_nat(family: Family) -> Result<Tables, FirewallError> {
    let default = detect_default_variant(family).await?;
    let legacy = async {
        if !has_legacy_nat(family) || is_hidden(family, default) {
            return Ok(None);
        }
        list_table(family, Variant::Legacy, default, "nat").await.map(Some)
    };
    let nf_tables = async {
        match list_table(family, Variant::NfTables, default, "nat").await {
            Ok(table) => Ok(Some(table)),
            // A kernel or machine without nf_tables is no obstacle where `iptables` is the legacy one.
            Err(why) if default == Variant::Legacy => {
                log::debug!("no nf_tables here: {why}");
                Ok(None)
            }
            Err(why) => Err(why),
        }
    };
    let (legacy, nf_tables) = tokio::join!(legacy, nf_tables);
    Ok(Tables { default, nf_tables: nf_tables?, legacy: legacy? })
}

/// Texts by which ip6tables of both variants reports that the kernel has no such table, or no IPv6.
const NO_NAT_TEXTS: [&str; 5] = [
    "Table does not exist",
    "can't initialize ip6tables table",
    "Failed to initialize nft",
    "not supported",
    "Module ip6_tables not found",
];

fn to_missing_nat_error(family: Family, error: FirewallError) -> FirewallError {
    match error {
        FirewallError::Failed { stderr, .. } if NO_NAT_TEXTS.iter().any(|text| stderr.contains(text)) => {
            FirewallError::NoNat { family, cause: stderr }
        }
        other => other,
    }
}

/// `ip6tables-nft-save` prints empty chains where the kernel has no IPv6 nat, as where nothing was put there yet. So the
/// kernel itself is tried by a transaction that `nft -c` takes back.
async fn check_ipv6_nat() -> Result<(), FirewallError> {
    const PROBE: &str =
        "table ip6 switchman_probe {\nchain c {\ntype nat hook prerouting priority -100;\n}\n}\n";
    let Some(nft) = find("nft") else { return Ok(()) };
    match run(&Program::new(nft).args(["-c", "-f", "-"]), PROBE.as_bytes()).await {
        Err(FirewallError::Failed { stderr, .. })
            if ["not supported", "No such file or directory"].iter().any(|text| stderr.contains(text)) =>
        {
            Err(FirewallError::NoNat { family: Family::V6, cause: stderr })
        }
        _ => Ok(()),
    }
}

async fn list_table(
    family: Family,
    variant: Variant,
    default: Variant,
    table: &str,
) -> Result<Table, FirewallError> {
    let save = build_program(family, variant, default, "save").args(["-t", table]);
    let listing = run(&save, b"").await?;
    if variant == Variant::NfTables && is_unprintable(&listing) {
        return list_chains(family, default, table).await;
    }
    save::parse(&listing).map_err(|wrong| FirewallError::Malformed {
        command: save.to_string(),
        line: wrong.line,
        found: wrong.found,
    })
}

/// A native rule that iptables cannot print is in the table: then nothing of it is printed, and the status is 0.
fn is_unprintable(listing: &str) -> bool {
    listing.lines().any(|line| line.starts_with("# Table `") && line.contains("is incompatible"))
}

/// Reads a table chain by chain. A chain that cannot be printed holds our jump or not, which a check of it shows.
async fn list_chains(family: Family, default: Variant, table: &str) -> Result<Table, FirewallError> {
    let program = build_program(family, Variant::NfTables, default, "");
    let wait = LOCK_TIMEOUT.as_secs().to_string();
    let program = program.args(["-w", wait.as_str(), "-t", table]);
    let mut found = Table::default();
    for chain in list_chain_names(family, table).await {
        match run(&program.clone().args(["-S", chain.as_str()]), b"").await {
            Ok(listing) => {
                save::parse_chain(&listing, &mut found);
                continue;
            }
            // Not every chain of the fixed list has to be there.
            Err(FirewallError::Failed { stderr, .. }) if stderr.contains("No chain") => continue,
            Err(_) => {}
        }
        let policy = ["PREROUTING", "INPUT", "OUTPUT", "POSTROUTING", "FORWARD"].contains(&chain.as_str());
        let jump = build_jump_rule(&chain);
        let check = program.clone().args(["-C", chain.as_str()]).args(&jump.words);
        if run(&check, b"").await.is_ok() {
            found.rules.push(jump);
        }
        found.chains.insert(chain.clone(), policy.then(|| "ACCEPT".to_owned()));
        found.unprintable_chains.push(chain);
    }
    Ok(found)
}

/// The chains of a table: all of them where `nft` is there, else those that matter here.
async fn list_chain_names(family: Family, table: &str) -> Vec<String> {
    let nft_family = if family == Family::V4 { "ip" } else { "ip6" };
    if let Some(nft) = find("nft")
        && let Ok(json) = run(&Program::new(nft).args(["-j", "list", "table", nft_family, table]), b"").await
        && let Ok(json) = serde_json::from_str(&json)
    {
        return native::list_chain_names(&json);
    }
    ["PREROUTING", "OUTPUT", CHAIN].map(str::to_owned).to_vec()
}

/// `iptables-nft-save`, or plain `iptables-save` on machines that have only one variant and no names with an infix.
fn build_program(family: Family, variant: Variant, default: Variant, verb: &str) -> Program {
    let verb = if verb.is_empty() { String::new() } else { format!("-{verb}") };
    let exact = format!("{}-{}{verb}", family.command_stem(), variant.infix());
    match find(&exact) {
        Some(path) => Program::new(path),
        None if variant == default => Program::new(format!("{}{verb}", family.command_stem())),
        None => Program::new(exact),
    }
}

/// Detects the variant that the command `iptables` runs: by the name its links resolve to, or by its `-V`.
async fn detect_default_variant(family: Family) -> Result<Variant, FirewallError> {
    let command = family.command_stem();
    let found = find(command).ok_or_else(|| FirewallError::Missing { command: command.to_owned() })?;
    let target = std::fs::canonicalize(&found).unwrap_or(found);
    let name = target.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    if name.contains("nft") {
        return Ok(Variant::NfTables);
    }
    if name.contains("legacy") {
        return Ok(Variant::Legacy);
    }
    let version = run(&Program::new(target).arg("-V"), b"").await?;
    Ok(if version.contains("nf_tables") { Variant::NfTables } else { Variant::Legacy })
}

/// The legacy nat table of one family; `None` where the kernel has none. Reading creates no table.
pub(super) async fn read_legacy_nat(family: Family) -> Result<Option<Table>, FirewallError> {
    if !has_legacy_nat(family) || is_hidden(family, Variant::NfTables) {
        return Ok(None);
    }
    list_table(family, Variant::Legacy, Variant::Legacy, "nat").await.map(Some)
}

fn has_legacy_nat(family: Family) -> bool {
    list_legacy_tables(family).iter().any(|table| table == "nat")
}

/// Hosts of k3s and k0s have legacy tables, which a program in a container made, and no legacy iptables.
fn is_hidden(family: Family, default: Variant) -> bool {
    default != Variant::Legacy && find(&format!("{}-legacy-save", family.command_stem())).is_none()
}

/// Lists the legacy tables of this network namespace. The kernel's list is read, because a mere `iptables-legacy-save`
/// makes them.
fn list_legacy_tables(family: Family) -> Vec<String> {
    let file = match family {
        Family::V4 => "ip_tables_names",
        Family::V6 => "ip6_tables_names",
    };
    let names = std::fs::read_to_string(build_net_path(file)).unwrap_or_default();
    names.lines().map(str::to_owned).collect()
}

/// `/proc/net` is the main thread's; a thread may be in a network namespace of its own.
fn build_net_path(file: &str) -> PathBuf {
    PathBuf::from("/proc/thread-self/net").join(file)
}

async fn run(program: &Program, input: &[u8]) -> Result<String, FirewallError> {
    let command = program.to_string();
    let output = program.run(input, LOCK_TIMEOUT + COMMAND_TIMEOUT).await.map_err(|error| match error {
        ExecError::Missing { program } => FirewallError::Missing { command: program },
        ExecError::TimedOut { waited, .. } => FirewallError::TimedOut { command: command.clone(), waited },
        ExecError::NotRun { source, .. } => {
            FirewallError::StartFailed { command: command.clone(), reason: source.to_string() }
        }
    })?;
    let stderr = join_lines(&output.stderr);
    match output.status {
        0 => {
            if !stderr.is_empty() {
                log::debug!("{command}: {stderr}");
            }
            Ok(output.stdout)
        }
        _ if is_privilege_error(&stderr) => Err(FirewallError::NoPrivilege { command, stderr }),
        RESOURCE_PROBLEM if stderr.contains("xtables lock") => {
            Err(FirewallError::Locked { command, waited: LOCK_TIMEOUT })
        }
        status => Err(FirewallError::Failed { command, status, stderr }),
    }
}

fn is_privilege_error(stderr: &str) -> bool {
    ["Permission denied", "you must be root", "Operation not permitted"]
        .iter()
        .any(|text| stderr.contains(text))
}

fn join_lines(text: &str) -> String {
    text.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("; ")
}

/// Reads a text as each listing of iptables and nft, and returns the table in it: a target of tests/fuzz/parsers.
#[cfg(fuzzing)]
pub fn fuzz_listings(listing: &str) -> Option<Table> {
    let table = save::parse(listing).ok();
    save::parse_chain(listing, &mut Table::default());
    let (json, listing) = listing.split_once("\n\n").unwrap_or((listing, listing));
    if let Ok(json) = serde_json::from_str(json) {
        let _ = native::find_rules(&json, listing);
    }
    table
}

#[cfg(test)]
mod tests;
