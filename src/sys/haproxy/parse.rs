//! HAProxy's tables -> views. By header name, never by column number: columns are appended across versions.
//!
//! A cut answer is an error and never a view with fewer servers: a socket's answer ends with an empty line, a page's rows
//! of a backend end with its `BACKEND` row, and every row has as many fields as its header.

use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

use super::Unreadable;
use crate::model::balancer::{AdminState, BackendView, ServerView, ServerWork, Verdict};

/// What `show servers state B; show stat B 4 -1` prints.
pub(super) fn socket(answer: &str, backend: &str) -> Result<BackendView, Unreadable> {
    if ["Can't find backend.", "No such proxy."].iter().any(|text| answer.starts_with(text)) {
        return Err(Unreadable::NoBackend);
    }
    if !answer.is_empty() && !answer.starts_with('1') {
        return Err(garbled("it does not begin with a server state table of format 1"));
    }
    let truncated = || Unreadable::Truncated { received: answer.len() };
    let (state, stat) = answer.split_once("\n\n").ok_or_else(truncated)?;
    let stat = stat.strip_suffix("\n\n").ok_or_else(truncated)?;
    let admin = admin_states(state)?;
    let mut servers = Vec::new();
    for row in rows(stat)? {
        if row.get("pxname")? == backend {
            servers.push(server(&row, Some(&admin))?);
        }
    }
    if servers.len() != admin.len() {
        return Err(garbled(format!(
            "{} servers with a state, {} with statistics",
            admin.len(),
            servers.len()
        )));
    }
    Ok(BackendView::new(servers))
}

/// Field `type` (management guide, 9.1). The others are 0, a frontend, and 3, a socket: with `option socket-stats` a
/// `listen` section has a row for each of its `bind` lines.
const BACKEND: &str = "1";
const SERVER: &str = "2";

/// What the statistics page prints as CSV: all proxies, with rows for frontends and backends.
pub(super) fn page(answer: &str, backend: &str) -> Result<BackendView, Unreadable> {
    if !answer.starts_with("# ") && !"# ".starts_with(answer) {
        return Err(garbled("it does not begin with a statistics header"));
    }
    if !answer.ends_with('\n') {
        return Err(Unreadable::Truncated { received: answer.len() });
    }
    let mut servers = Vec::new();
    for row in rows(answer)? {
        if row.get("pxname")? != backend {
            continue;
        }
        match row.get("type")? {
            BACKEND => return Ok(BackendView::new(servers)),
            SERVER => servers.push(server(&row, None)?),
            _ => {}
        }
    }
    if servers.is_empty() {
        Err(Unreadable::NoBackend)
    } else {
        Err(Unreadable::Truncated { received: answer.len() })
    }
}

fn server(row: &Row, admin: Option<&BTreeMap<String, AdminState>>) -> Result<ServerView, Unreadable> {
    let name = row.get("svname")?.to_owned();
    let status = row.get("status")?.to_owned();
    let admin = match admin {
        Some(states) => {
            Some(*states.get(&name).ok_or_else(|| garbled(format!("no state of server `{name}`")))?)
        }
        None => None,
    };
    Ok(ServerView {
        verdict: verdict(&status),
        backup: row.number("bck")? > 0,
        weight: u32::try_from(row.number("weight")?).map_err(|_| garbled("weight out of range"))?,
        check: check(row),
        work: ServerWork {
            sessions: row.number("scur")?,
            queued: row.number("qcur")?,
            connections_used: row.optional_number("used_conn_cur")?,
            selected_total: row.number("lbtot")?,
        },
        name,
        status,
        admin,
    })
}

/// By prefix: `UP 1/3`, `DOWN (agent)`, `MAINT (via b/s)`. What follows the word is a count or stands in brackets, else
/// it is a text we do not know, and so no verdict.
fn verdict(status: &str) -> Verdict {
    if status == "no check" {
        return Verdict::NoCheck;
    }
    let (word, rest) = match status.split_once(' ') {
        Some((word, rest)) => (word, Some(rest)),
        None => (status, None),
    };
    let counting = rest.is_some_and(is_count);
    let known = |rest: &str| counting || rest.starts_with('(') && rest.ends_with(')');
    if !rest.is_none_or(known) {
        return Verdict::Unknown;
    }
    match word {
        "UP" if counting => Verdict::GoingDown,
        "UP" => Verdict::Up,
        "DOWN" if counting => Verdict::GoingUp,
        "DOWN" => Verdict::Down,
        "DRAIN" => Verdict::Drain,
        "NOLB" => Verdict::Stopping,
        "MAINT" => Verdict::Maint,
        _ => Verdict::Unknown,
    }
}

fn is_count(text: &str) -> bool {
    let number = |text: &str| !text.is_empty() && text.chars().all(|c| c.is_ascii_digit());
    text.split_once('/').is_some_and(|(passed, of)| number(passed) && number(of))
}

/// `L7OK/200`, `L4CON`; a leading `* ` (check running) is left out.
fn check(row: &Row) -> String {
    let status = row.optional("check_status").unwrap_or("").trim_start_matches("* ");
    match row.optional("check_code").filter(|code| !code.is_empty()) {
        Some(code) => format!("{status}/{code}"),
        None => status.to_owned(),
    }
}

/// `show servers state`: a format version, a header, a line a server, blanks between fields.
/// The backend's number where its servers have a state and no statistics were found under its name.
pub fn number_of_namesake(answer: &str) -> Result<Option<String>, Unreadable> {
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

fn admin_states(text: &str) -> Result<BTreeMap<String, AdminState>, Unreadable> {
    let mut lines = text.lines();
    if lines.next() != Some("1") {
        return Err(garbled("no server state table of format 1"));
    }
    let header = lines
        .next()
        .and_then(|line| line.strip_prefix("# "))
        .ok_or_else(|| garbled("no server state header"))?;
    let names: Vec<&str> = header.split(' ').collect();
    let column = |name: &str| {
        names.iter().position(|other| *other == name).ok_or_else(|| garbled(format!("no column `{name}`")))
    };
    let (name, admin) = (column("srv_name")?, column("srv_admin_state")?);
    let mut states = BTreeMap::new();
    for line in lines {
        let fields: Vec<&str> = line.split(' ').collect();
        let (Some(name), Some(admin)) = (fields.get(name), fields.get(admin)) else {
            return Err(garbled("a server state line is short"));
        };
        let mask = admin.parse().map_err(|_| garbled(format!("srv_admin_state is `{admin}`")))?;
        states.insert((*name).to_owned(), AdminState(mask));
    }
    Ok(states)
}

/// One CSV row with its header.
struct Row {
    columns: Rc<HashMap<String, usize>>,
    fields: csv::StringRecord,
}

impl Row {
    fn optional(&self, name: &str) -> Option<&str> {
        self.fields.get(*self.columns.get(name)?)
    }

    fn get(&self, name: &str) -> Result<&str, Unreadable> {
        self.optional(name).ok_or_else(|| garbled(format!("no column `{name}`")))
    }

    /// An empty field counts nothing, as HAProxy prints it.
    fn number(&self, name: &str) -> Result<u64, Unreadable> {
        let text = self.get(name)?;
        if text.is_empty() {
            Ok(0)
        } else {
            text.parse().map_err(|_| garbled(format!("`{name}` is `{text}`")))
        }
    }

    fn optional_number(&self, name: &str) -> Result<Option<u64>, Unreadable> {
        if self.optional(name).is_some() { self.number(name).map(Some) } else { Ok(None) }
    }
}

fn rows(text: &str) -> Result<Vec<Row>, Unreadable> {
    let body = text.strip_prefix("# ").ok_or_else(|| garbled("no statistics header"))?;
    let mut reader = csv::ReaderBuilder::new().has_headers(true).flexible(false).from_reader(body.as_bytes());
    let header = reader.headers().map_err(|error| garbled(error.to_string()))?.clone();
    let columns: Rc<HashMap<String, usize>> =
        Rc::new(header.iter().enumerate().map(|(at, name)| (name.to_owned(), at)).collect());
    reader
        .records()
        .map(|record| {
            record
                .map(|fields| Row { columns: columns.clone(), fields })
                .map_err(|error| garbled(error.to_string()))
        })
        .collect()
}

fn garbled(why: impl Into<String>) -> Unreadable {
    Unreadable::Garbled(why.into())
}
