//! The text of an instance's unit. Pure.
//!
//! Sources: systemd.service(5), systemd.exec(5), systemd.kill(5), systemd.syntax(7), all of version 252.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use crate::model::deployment::{InstanceId, InstanceSpec, StopSignal};
use crate::model::environment_file::render_environment_file;

mod sandbox;

/// A value that cannot be written into a unit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{subject} has a control character or a line's end, which a unit cannot hold: `{}`", .found.escape_debug())]
pub struct UnitError {
    pub subject: &'static str,
    pub found: String,
}

/// Returns `switchman-dp_…-1.service`.
pub fn format_unit_name(instance: &InstanceId) -> String {
    format!("switchman-{instance}.service")
}

/// Returns the instance that a unit runs, or `None` if switchman did not make the unit.
pub fn parse_unit_name(name: &str) -> Option<InstanceId> {
    name.strip_prefix("switchman-")?.strip_suffix(".service")?.parse().ok()
}

/// The variables that switchman itself sets. They are in the unit, which every user may read.
const PUBLIC_VARIABLES: [&str; 5] =
    ["PORT", "SWITCHMAN_SERVICE", "SWITCHMAN_VERSION", "SWITCHMAN_DEPLOYMENT", "SWITCHMAN_RELEASE"];

/// The location of the values of the operator's variables.
#[derive(Debug, Clone, Copy)]
pub enum ValueLocation<'a> {
    /// In a file for root alone.
    File(&'a Path),
    /// In the unit, as 0.1.0 had them: systemd shows them to every user.
    Unit,
}

/// Renders the file with the operator's variables; `None` where there are none.
pub fn render_private_environment(spec: &InstanceSpec) -> Option<String> {
    let variables = spec.env.iter().filter(|(name, _)| !PUBLIC_VARIABLES.contains(&name.as_str()));
    let text = render_environment_file(variables);
    (!text.is_empty()).then_some(text)
}

/// Renders the unit of an instance. `program` is the absolute path of the first word of its argv.
///
/// `KillMode`: TERM goes to every process (`control-group`); another signal is for the first process alone (`mixed`), which
/// ends its own children. `Restart=always` with no start limit: an instance has to run until a command stops it. Its pause does
/// not grow: `RestartSteps=` came with 254, and older ones complain of it at every reload.
pub fn render_unit(
    spec: &InstanceSpec,
    program: &Path,
    values: ValueLocation<'_>,
) -> Result<String, UnitError> {
    let InstanceSpec { id, service, version, .. } = spec;
    let dir = escape_plain("the directory", &spec.dir.to_string_lossy())?;
    let mut argv = quote_word("the program", &program.to_string_lossy(), DollarEscape::Expanded)?;
    for arg in &spec.argv[1.min(spec.argv.len())..] {
        argv.push(' ');
        argv.push_str(&quote_word("an argument", arg, DollarEscape::Expanded)?);
    }
    let mut text = format!(
        "# Made by switchman, which takes it away again: changes are lost.\n[Unit]\nDescription={service} {version} \
         (switchman)\nAfter=network.target\nStartLimitIntervalSec=0\n\n[Service]\n\
         Type=exec\nWorkingDirectory={dir}\nExecStart={argv}\n"
    );
    text.push_str(&render_environment(spec, values)?);
    if let Some(user) = &spec.user {
        let _ = writeln!(text, "User={}", escape_plain("the user", user)?);
    }
    let (mode, signal) = match spec.stop_signal {
        StopSignal::Term => ("control-group", "SIGTERM"),
        StopSignal::Quit => ("mixed", "SIGQUIT"),
        StopSignal::Winch => ("mixed", "SIGWINCH"),
    };
    let _ = write!(
        text,
        "Restart=always\nRestartSec=1\nKillMode={mode}\nKillSignal={signal}\n{}\n",
        format_grace(spec.grace)
    );
    let bounds = [
        ("MemoryMax", spec.resources.memory_bytes),
        ("TasksMax", spec.resources.tasks.map(u64::from)),
        ("LimitNOFILE", spec.resources.open_files),
    ];
    for (key, bound) in bounds {
        if let Some(bound) = bound {
            let _ = writeln!(text, "{key}={bound}");
        }
    }
    let _ = writeln!(text, "UMask=0022\nSyslogIdentifier={service}");
    match spec.find_sandbox() {
        Some(sandbox) => text.push_str(&sandbox::render_sandbox(spec, sandbox)),
        None => text.push_str(&sandbox::render_hardening(spec)),
    }
    let _ = write!(text, "\n# {id}\n[Install]\nWantedBy=multi-user.target\n");
    Ok(text)
}

fn render_environment(spec: &InstanceSpec, values: ValueLocation<'_>) -> Result<String, UnitError> {
    let mut text = String::new();
    // As everywhere: PATH comes from systemd, HOME too where there is a user, and %h is the home of the user who runs systemd.
    if !spec.env.contains_key("LANG") {
        text.push_str("Environment=\"LANG=C.UTF-8\"\n");
    }
    if !spec.env.contains_key("HOME") && spec.user.is_none() {
        text.push_str("Environment=\"HOME=%h\"\n");
    }
    let is_in_unit = |name: &str| match values {
        ValueLocation::Unit => true,
        ValueLocation::File(_) => PUBLIC_VARIABLES.contains(&name),
    };
    for (key, value) in spec.env.iter().filter(|(name, _)| is_in_unit(name)) {
        let variable = quote_word("the environment", &format!("{key}={value}"), DollarEscape::Plain)?;
        let _ = writeln!(text, "Environment={variable}");
    }
    if let ValueLocation::File(file) = values
        && render_private_environment(spec).is_some()
    {
        let file = escape_plain("the directory of the state", &file.to_string_lossy())?;
        let _ = writeln!(text, "EnvironmentFile={file}");
    }
    Ok(text)
}

/// Returns the unit with another grace.
pub fn replace_grace(unit: &str, to: Duration) -> String {
    let line = |old: &str| if old.starts_with(GRACE) { format_grace(to) } else { old.to_owned() };
    unit.lines().map(|old| line(old) + "\n").collect()
}

/// Whether they run the same thing in the same way: the grace may be that of a stop that was cut short.
pub fn is_same_command(unit: &str, other: &str) -> bool {
    replace_grace(unit, Duration::ZERO) == replace_grace(other, Duration::ZERO)
}

const GRACE: &str = "TimeoutStopSec=";

/// Formats the time from the signal to KILL. 0 would be no limit at all.
fn format_grace(grace: Duration) -> String {
    format!("{GRACE}{}ms", grace.as_millis().max(1))
}

/// In `ExecStart=` a variable is expanded in every word; in `Environment=` the dollar has no meaning.
#[derive(Clone, Copy, PartialEq, Eq)]
enum DollarEscape {
    Expanded,
    Plain,
}

/// Puts a word into double quotes, which systemd leaves out when it reads the word.
fn quote_word(subject: &'static str, word: &str, dollar: DollarEscape) -> Result<String, UnitError> {
    let mut text = String::from("\"");
    for c in word.chars() {
        match c {
            // Tabs have an escape; a value with another one belongs in a file.
            '\t' => text.push_str("\\t"),
            c if c.is_control() => return Err(UnitError { subject, found: word.to_owned() }),
            '"' | '\\' => text.extend(['\\', c]),
            '%' => text.push_str("%%"),
            '$' if dollar == DollarEscape::Expanded => text.push_str("$$"),
            c => text.push(c),
        }
    }
    text.push('"');
    Ok(text)
}

/// A setting that is one value to the end of its line: only `%` has a meaning.
fn escape_plain(subject: &'static str, value: &str) -> Result<String, UnitError> {
    if value.chars().any(char::is_control) || value.trim() != value || value.ends_with('\\') {
        return Err(UnitError { subject, found: value.to_owned() });
    }
    Ok(value.replace('%', "%%"))
}

#[cfg(test)]
mod tests;
