//! HAProxy's tables -> views. By header name, never by column number: columns are appended across versions.
//!
//! A cut answer is an error and never a view with fewer servers: a socket's answer ends with an empty line, a page's rows
//! of a backend end with its `BACKEND` row, and every row has as many fields as its header.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;

use super::error::ReadError;
use crate::model::balancer::{AdminState, BackendView, ServerCounters, ServerLine, ServerState, ServerView};
use crate::model::terminal_text::clean_line;

/// Parses the output of `show servers state B; show stat B 4 -1`.
pub(super) fn parse_socket_answer(answer: &str, backend: &str) -> Result<BackendView, ReadError> {
    if ["Can't find backend.", "No such proxy."].iter().any(|text| answer.starts_with(text)) {
        return Err(ReadError::NoBackend);
    }
    if !answer.is_empty() && !answer.starts_with('1') {
        return Err(new_garbled_error("it does not begin with a server state table of format 1"));
    }
    let truncated = || ReadError::Truncated { received: answer.len() };
    let (state, stat) = answer.split_once("\n\n").ok_or_else(truncated)?;
    let stat = stat.strip_suffix("\n\n").ok_or_else(truncated)?;
    let states = parse_states(state)?;
    let mut servers = Vec::new();
    for row in parse_rows(stat)? {
        if row.get_optional("pxname") == Some(backend) {
            row.require_complete()?;
            servers.push(parse_server(&row, Some(&states))?);
        }
    }
    if servers.len() != states.len() {
        return Err(new_garbled_error(format!(
            "{} servers with a state, {} with statistics",
            states.len(),
            servers.len()
        )));
    }
    Ok(BackendView::new(servers))
}

/// Field `type` (management guide, 9.1). The others are 0, a frontend, and 3, a socket: with `option socket-stats` a
/// `listen` section has a row for each of its `bind` lines.
const TYPE_BACKEND: &str = "1";
const TYPE_SERVER: &str = "2";

/// Parses the CSV of the statistics page: all proxies, with rows for frontends and backends.
pub(super) fn parse_page(answer: &str, backend: &str) -> Result<BackendView, ReadError> {
    if !answer.starts_with("# ") && !"# ".starts_with(answer) {
        return Err(new_garbled_error("it does not begin with a statistics header"));
    }
    if !answer.ends_with('\n') {
        return Err(ReadError::Truncated { received: answer.len() });
    }
    let mut servers = Vec::new();
    for row in parse_rows(answer)? {
        if row.get_optional("pxname") != Some(backend) {
            continue;
        }
        row.require_complete()?;
        match row.get("type")? {
            TYPE_BACKEND => return Ok(BackendView::new(servers)),
            TYPE_SERVER => servers.push(parse_server(&row, None)?),
            _ => {}
        }
    }
    if servers.is_empty() {
        Err(ReadError::NoBackend)
    } else {
        Err(ReadError::Truncated { received: answer.len() })
    }
}

fn parse_server(
    row: &StatRow,
    states: Option<&BTreeMap<String, StateOfServer>>,
) -> Result<ServerView, ReadError> {
    let name = clean_line(row.get("svname")?).into_owned();
    let status = clean_line(row.get("status")?).into_owned();
    let (admin_state, address) = match states {
        Some(states) => {
            let no_state = || new_garbled_error(format!("no state of server `{name}`"));
            let state = states.get(row.get("svname")?).ok_or_else(no_state)?;
            (Some(state.admin), state.address)
        }
        // A page without `stats show-legends` leaves the column empty (seen with 2.6.12).
        None => (None, row.get_optional("addr").and_then(|text| parse_address(text.parse().ok()))),
    };
    Ok(ServerView {
        state: parse_verdict(&status),
        backup: row.parse_number("bck")? > 0,
        weight: u32::try_from(row.parse_number("weight")?)
            .map_err(|_| new_garbled_error("weight out of range"))?,
        last_check: format_check(row),
        work: parse_counters(row)?,
        name,
        address,
        status,
        admin_state,
    })
}

fn parse_counters(row: &StatRow) -> Result<ServerCounters, ReadError> {
    let kept = (row.parse_optional_number("idle_conn_cur")?, row.parse_optional_number("safe_conn_cur")?);
    Ok(ServerCounters {
        sessions: row.parse_number("scur")?,
        queued: row.parse_number("qcur")?,
        connections_used: row.parse_optional_number("used_conn_cur")?,
        idle_connections: kept.0.zip(kept.1).map(|(idle, safe)| idle + safe),
        selected_total: row.parse_number("lbtot")?,
    })
}

/// `srv_check_state` (management guide, `show servers state`): a health check is configured and enabled.
const CHECK_CONFIGURED: u32 = 0x02;
const CHECK_ENABLED: u32 = 0x04;

/// Parses the output of `show servers state; show stat -1 4 -1`: the server lines of all backends. A line without an address,
/// and one with a row that is not as expected, is left out: it belongs to a backend of another service.
pub(super) fn parse_lines(answer: &str) -> Result<Vec<ServerLine>, ReadError> {
    let truncated = || ReadError::Truncated { received: answer.len() };
    let (state, stat) = answer.split_once("\n\n").ok_or_else(truncated)?;
    let stat = stat.strip_suffix("\n\n").ok_or_else(truncated)?;
    let mut work = BTreeMap::new();
    let mut tracked = BTreeMap::new();
    for row in parse_rows(stat)? {
        let (Some(proxy), Some(server)) = (row.get_optional("pxname"), row.get_optional("svname")) else {
            continue;
        };
        let name = format!("{proxy}/{server}");
        if let Some(other) = row.get_optional("tracked").filter(|other| !other.is_empty()) {
            tracked.insert(name.clone(), other.to_owned());
        }
        if let Ok(counters) = parse_counters(&row) {
            work.insert(name, counters);
        }
    }
    let rows = StateTable::parse(state)?.rows;
    let mut lines: Vec<ServerLine> = rows.iter().filter_map(|row| parse_line(row, &work)).collect();
    // `track`: the health check is that of another line.
    let checks: BTreeMap<String, Option<u16>> =
        lines.iter().map(|line| (line.to_string(), line.check_port)).collect();
    for line in &mut lines {
        if let Some(other) = tracked.get(&line.to_string()) {
            line.check_port = checks.get(other).copied().flatten();
        }
    }
    Ok(lines)
}

type StateRow<'a> = BTreeMap<&'a str, &'a str>;

fn parse_line(row: &StateRow<'_>, work: &BTreeMap<String, ServerCounters>) -> Option<ServerLine> {
    let get = |name: &str| row.get(name).copied();
    let (backend, server) =
        (clean_line(get("be_name")?).into_owned(), clean_line(get("srv_name")?).into_owned());
    let address: IpAddr = get("srv_addr")?.parse().ok()?;
    let port: u16 = get("srv_port")?.parse().ok()?;
    let check_state: u32 = get("srv_check_state")?.parse().ok()?;
    let admin = AdminState(get("srv_admin_state")?.parse().ok()?);
    // 0, or no column before HAProxy 2.5: the port of the line.
    let own_port = get("srv_check_port").and_then(|port| port.parse().ok()).filter(|port: &u16| *port != 0);
    let has_check = check_state & (CHECK_CONFIGURED | CHECK_ENABLED) == CHECK_CONFIGURED | CHECK_ENABLED;
    let work = work.get(&format!("{backend}/{server}")).copied().unwrap_or_default();
    Some(ServerLine {
        backend,
        server,
        address: SocketAddr::new(address, port),
        check_port: has_check.then(|| own_port.unwrap_or(port)),
        is_in_maintenance: admin.is_in_maintenance(),
        work,
    })
}

/// Parses a status by its prefix: `UP 1/3`, `DOWN (agent)`, `MAINT (via b/s)`. The word is followed by a count or by
/// brackets, else the text is unknown, and so no verdict.
fn parse_verdict(status: &str) -> ServerState {
    if status == "no check" {
        return ServerState::NoCheck;
    }
    let (word, rest) = match status.split_once(' ') {
        Some((word, rest)) => (word, Some(rest)),
        None => (status, None),
    };
    let counting = rest.is_some_and(is_count);
    let known = |rest: &str| counting || rest.starts_with('(') && rest.ends_with(')');
    if !rest.is_none_or(known) {
        return ServerState::Unknown;
    }
    match word {
        "UP" if counting => ServerState::GoingDown,
        "UP" => ServerState::Up,
        "DOWN" if counting => ServerState::GoingUp,
        "DOWN" => ServerState::Down,
        "DRAIN" => ServerState::Drain,
        "NOLB" => ServerState::Stopping,
        "MAINT" => ServerState::Maint,
        _ => ServerState::Unknown,
    }
}

fn is_count(text: &str) -> bool {
    let number = |text: &str| !text.is_empty() && text.chars().all(|c| c.is_ascii_digit());
    text.split_once('/').is_some_and(|(passed, of)| number(passed) && number(of))
}

/// `L7OK/200`, `L4CON`; a leading `* ` (check running) is left out.
fn format_check(row: &StatRow) -> String {
    let status = clean_line(row.get_optional("check_status").unwrap_or("").trim_start_matches("* "));
    match row.get_optional("check_code").filter(|code| !code.is_empty()) {
        Some(code) => format!("{status}/{}", clean_line(code)),
        None => status.into_owned(),
    }
}

/// `show servers state`: a format version, a header, a line a server, blanks between fields.
/// The backend's number where its servers have a state and no statistics were found under its name.
pub fn find_backend_number(answer: &str) -> Result<Option<String>, ReadError> {
    let Some((state, stat)) = answer.split_once("\n\n") else { return Ok(None) };
    // A header and nothing below it.
    if stat.trim_end().lines().count() != 1 || !stat.starts_with("# ") {
        return Ok(None);
    }
    let mut lines = state.lines().skip(1);
    let header = lines.next().and_then(|line| line.strip_prefix("# ")).unwrap_or_default();
    let column = header.split(' ').position(|name| name == "be_id");
    let first = lines.next().and_then(|line| line.split(' ').nth(column?));
    let number =
        first.filter(|number| number.bytes().all(|byte| byte.is_ascii_digit()) && !number.is_empty());
    Ok(number.map(str::to_owned))
}

/// What `show servers state` adds to the statistics of a server.
struct StateOfServer {
    admin: AdminState,
    address: Option<SocketAddr>,
}

/// An address that no server has: of a socket, or of a name that did not resolve.
fn parse_address(address: Option<SocketAddr>) -> Option<SocketAddr> {
    address.filter(|address| !address.ip().is_unspecified())
}

fn parse_states(text: &str) -> Result<BTreeMap<String, StateOfServer>, ReadError> {
    let table = StateTable::parse(text)?;
    let missing = |name| new_garbled_error(format!("no column `{name}`"));
    for name in ["srv_name", "srv_admin_state"] {
        if !table.names.contains(&name) {
            return Err(missing(name));
        }
    }
    let mut states = BTreeMap::new();
    for row in table.rows {
        let (Some(name), Some(admin)) = (row.get("srv_name"), row.get("srv_admin_state")) else {
            return Err(new_garbled_error("a server state line is short"));
        };
        let mask = admin.parse().map_err(|_| new_garbled_error(format!("srv_admin_state is `{admin}`")))?;
        let get = |name: &str| row.get(name).copied();
        let address = get("srv_addr").and_then(|text| text.parse::<IpAddr>().ok());
        let port = get("srv_port").and_then(|text| text.parse().ok());
        let address = address.zip(port).map(|(address, port)| SocketAddr::new(address, port));
        let state = StateOfServer { admin: AdminState(mask), address: parse_address(address) };
        states.insert((*name).to_owned(), state);
    }
    Ok(states)
}

/// The output of `show servers state`: a format version, a header, a line a server, blanks between fields.
struct StateTable<'a> {
    names: Vec<&'a str>,
    rows: Vec<StateRow<'a>>,
}

impl<'a> StateTable<'a> {
    fn parse(text: &'a str) -> Result<Self, ReadError> {
        let mut lines = text.lines();
        if lines.next() != Some("1") {
            return Err(new_garbled_error("no server state table of format 1"));
        }
        let header = lines
            .next()
            .and_then(|line| line.strip_prefix("# "))
            .ok_or_else(|| new_garbled_error("no server state header"))?;
        let names: Vec<&str> = header.split(' ').collect();
        let rows = lines.map(|line| names.iter().copied().zip(line.split(' ')).collect()).collect();
        Ok(Self { names, rows })
    }
}

/// A CSV row with its header.
struct StatRow {
    columns: Rc<HashMap<String, usize>>,
    fields: csv::StringRecord,
}

impl StatRow {
    /// Checks that the row has as many fields as its header: a row of another backend may be broken, ours may not.
    fn require_complete(&self) -> Result<(), ReadError> {
        let (found, expected) = (self.fields.len(), self.columns.len());
        if found == expected {
            return Ok(());
        }
        Err(new_garbled_error(format!("a row has {found} fields, the header {expected}")))
    }

    fn get_optional(&self, name: &str) -> Option<&str> {
        self.fields.get(*self.columns.get(name)?)
    }

    fn get(&self, name: &str) -> Result<&str, ReadError> {
        self.get_optional(name).ok_or_else(|| new_garbled_error(format!("no column `{name}`")))
    }

    /// An empty field counts nothing, as HAProxy prints it.
    fn parse_number(&self, name: &str) -> Result<u64, ReadError> {
        let text = self.get(name)?;
        if text.is_empty() {
            Ok(0)
        } else {
            text.parse().map_err(|_| new_garbled_error(format!("`{name}` is `{text}`")))
        }
    }

    fn parse_optional_number(&self, name: &str) -> Result<Option<u64>, ReadError> {
        if self.get_optional(name).is_some() { self.parse_number(name).map(Some) } else { Ok(None) }
    }
}

fn parse_rows(text: &str) -> Result<Vec<StatRow>, ReadError> {
    let body = text.strip_prefix("# ").ok_or_else(|| new_garbled_error("no statistics header"))?;
    let mut reader = csv::ReaderBuilder::new().has_headers(true).flexible(true).from_reader(body.as_bytes());
    let header = reader.headers().map_err(|error| new_garbled_error(error.to_string()))?.clone();
    let columns: Rc<HashMap<String, usize>> =
        Rc::new(header.iter().enumerate().map(|(at, name)| (name.to_owned(), at)).collect());
    reader
        .records()
        .map(|record| {
            record
                .map(|fields| StatRow { columns: columns.clone(), fields })
                .map_err(|error| new_garbled_error(error.to_string()))
        })
        .collect()
}

fn new_garbled_error(why: impl Into<String>) -> ReadError {
    ReadError::Garbled(why.into())
}
