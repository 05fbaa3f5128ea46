//! What a HAProxy program says of the files, as findings.

use super::source::HaproxyCfg;
use crate::model::config_check::ConfigCheck;
use crate::model::finding::{Finding, Severity};

/// Summaries that HAProxy prints after the messages they sum up.
const SUMMARIES: [&str; 3] =
    ["Error(s) found in configuration file", "Fatal errors found in configuration", "Error reading"];

/// One finding for the verdict, and one for each message.
pub fn judge_check(check: &ConfigCheck, cfg: &HaproxyCfg) -> Vec<Finding> {
    let files = cfg.files.iter().map(|file| file.name.as_str()).collect::<Vec<_>>().join(", ");
    let version = &check.version;
    let mut found = Vec::new();
    for (is_alert, subject, message) in check.messages.lines().filter_map(parse_message) {
        let is_summary = SUMMARIES.iter().any(|summary| message.contains(summary));
        let subject = subject.map_or_else(|| files.clone(), str::to_owned);
        if is_alert && !check.is_accepted && !is_summary {
            found.push(refuse(subject, format!("HAProxy {version} does not start with this: {message}")));
        } else if !is_alert || !is_summary {
            found.push(Finding {
                severity: Severity::Note,
                id: "haproxy-program-warning",
                subject,
                reason: format!("HAProxy {version} warns: {message}"),
                fix: "see HAProxy's manual for this line".to_owned(),
            });
        }
    }
    if check.is_accepted {
        let reason = format!("HAProxy {version} accepts the files, with what they name (`haproxy -c`)");
        let id = "haproxy-accepted";
        found.insert(0, Finding { severity: Severity::Ok, id, subject: files, reason, fix: String::new() });
    } else if !found.iter().any(|finding| finding.severity == Severity::Problem) {
        found.push(refuse(
            files,
            format!("HAProxy {version} does not start with the files, and gives no reason"),
        ));
    }
    found
}

fn refuse(subject: String, reason: String) -> Finding {
    Finding {
        severity: Severity::Problem,
        id: "haproxy-refused",
        subject,
        reason,
        fix: "correct the line; `haproxy -c -f FILE` prints what HAProxy reads".to_owned(),
    }
}

/// `[ALERT]    (1234) : config : parsing [FILE:LINE] : MESSAGE`: whether it is an alert, `FILE:LINE` and the message.
fn parse_message(line: &str) -> Option<(bool, Option<&str>, &str)> {
    let is_alert = line.starts_with("[ALERT]");
    if !is_alert && !line.starts_with("[WARNING]") {
        return None;
    }
    let (_, text) = line.split_once(") : ")?;
    let text = text.trim_start_matches("config : ");
    let Some((before, rest)) =
        text.split_once('[').filter(|(before, _)| before.is_empty() || before.ends_with("arsing "))
    else {
        return Some((is_alert, None, text));
    };
    let (place, message) = rest.split_once(']')?;
    let is_place = place.rsplit_once(':').is_some_and(|(_, line)| line.parse::<u32>().is_ok());
    let message = message.trim_start_matches([' ', ':']);
    Some(if is_place { (is_alert, Some(place), message) } else { (is_alert, None, before) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lint::CfgFile;

    fn judge(is_accepted: bool, messages: &str) -> Vec<(Severity, String, String)> {
        let check = ConfigCheck { version: "2.6.12".into(), is_accepted, messages: messages.into() };
        let files = vec![CfgFile::decode("a.cfg", b""), CfgFile::decode("b.cfg", b"")];
        let cfg = HaproxyCfg { files, ..HaproxyCfg::default() };
        let of = |finding: Finding| (finding.severity, finding.subject, finding.reason);
        judge_check(&check, &cfg).into_iter().map(of).collect()
    }

    /// As HAProxy 2.6.12 prints them.
    #[test]
    fn messages_become_findings() {
        let found = judge(
            false,
            "[NOTICE]   (1) : haproxy version is 2.6.12\n[ALERT]    (1) : config : parsing [a.cfg:14] : unknown option 'x'.\n\
             [ALERT]    (1) : config : [a.cfg:15] : 'server s/a' : unknown keyword 'y'.\n\
             [ALERT]    (1) : config : Proxy 'f': unable to find required use_backend: 'z'.\n\
             [ALERT]    (1) : config : Fatal errors found in configuration.\n",
        );
        let expected = [
            ("a.cfg:14", "HAProxy 2.6.12 does not start with this: unknown option 'x'."),
            ("a.cfg:15", "HAProxy 2.6.12 does not start with this: 'server s/a' : unknown keyword 'y'."),
            (
                "a.cfg, b.cfg",
                "HAProxy 2.6.12 does not start with this: Proxy 'f': unable to find required use_backend: 'z'.",
            ),
        ];
        let expected =
            expected.map(|(subject, reason)| (Severity::Problem, subject.to_owned(), reason.to_owned()));
        assert_eq!(found, expected);
    }

    #[test]
    fn verdict_is_stated_also_without_messages() {
        let accepted = judge(true, "[WARNING]  (1) : config : missing timeouts for frontend 'f'.\n");
        assert_eq!(accepted.iter().map(|found| found.0).collect::<Vec<_>>(), [Severity::Ok, Severity::Note]);
        assert_eq!(judge(false, "").iter().map(|found| found.0).collect::<Vec<_>>(), [Severity::Problem]);
    }
}
