//! The check settings of the lines against those of switchman.yaml, and how long a switch takes by them.

use std::time::Duration;

use super::cfg::{ParsedCfg, Section};
use super::keywords::ServerLine;
use super::report::LintReport;
use crate::model::balancer::{BalancerSpec, CheckTiming};
use crate::model::duration::format;
use crate::model::finding::Severity::{Note, Warning};
use crate::model::port_forward::Switch;
use crate::plan::switch::compute_detection_time;

/// A switch that takes longer than this to be seen is worth a word.
const SLOW_LIMIT: Duration = Duration::from_secs(10);

/// Each kind of finding once: the lines of a backend usually share their settings.
pub(super) fn lint_timing(
    cfg: &ParsedCfg,
    section: &Section,
    mains: &[&ServerLine<'_>],
    balancer: &BalancerSpec,
    report: &mut LintReport<'_>,
) {
    let timeout = read_check_timeout(cfg, section);
    let timings: Vec<_> = mains
        .iter()
        .filter(|server| ["inter", "fastinter", "fall", "rise"].iter().all(|key| server.is_known(key)))
        .map(|server| (*server, read_timing(server, timeout)))
        .collect();
    let configured = apply_defaults(&balancer.check);
    if let Some((server, found)) = timings.iter().find(|(_, found)| apply_defaults(found) != configured) {
        lint_difference(server, found, balancer, report);
    }
    if let Some((server, found)) =
        timings.iter().find(|(_, found)| compute_detection_time(found, Switch::Off) > SLOW_LIMIT)
    {
        report.add(
            Note,
            "haproxy-slow-checks",
            server.number,
            format!(
                "a switch takes up to {} to be seen: (fall - 1) x fastinter, or inter without one, + inter + timeout check",
                format(compute_detection_time(found, Switch::Off))
            ),
            "write `default-server inter 1s fastinter 200ms fall 3 rise 2` and `timeout check 1s`",
        );
    }
    let slow_return = |server: &&&ServerLine<'_>| {
        let downinter = server.value("downinter").and_then(parse_haproxy_time);
        downinter.is_some_and(|downinter| downinter > read_timing(server, timeout).inter)
    };
    if let Some(server) = mains.iter().find(slow_return) {
        report.add(
            Warning,
            "haproxy-downinter",
            server.number,
            "with a `downinter` above `inter` a server that is DOWN is checked less often: it comes back later than the bound that \
             switchman computes",
            "remove `downinter`",
        );
    }
}

/// `timeout check` of the section.
pub(super) fn read_check_timeout(cfg: &ParsedCfg, section: &Section) -> Option<Duration> {
    cfg.find_setting(section, &["timeout", "check"]).and_then(|line| parse_haproxy_time(line.word(2)?))
}

pub(super) fn read_timing(server: &ServerLine<'_>, timeout: Option<Duration>) -> CheckTiming {
    let time = |key: &str| server.value(key).and_then(parse_haproxy_time);
    let number = |key: &str| server.value(key).and_then(|text| text.parse::<u32>().ok());
    let default = CheckTiming::default();
    CheckTiming {
        inter: time("inter").unwrap_or(default.inter),
        fastinter: time("fastinter"),
        fall: number("fall").unwrap_or(default.fall),
        rise: number("rise").unwrap_or(default.rise),
        timeout,
    }
}

/// With what a setting that is left out means.
fn apply_defaults(timing: &CheckTiming) -> CheckTiming {
    let CheckTiming { inter, fastinter, timeout, .. } = *timing;
    CheckTiming { fastinter: fastinter.or(Some(inter)), timeout: timeout.or(Some(inter)), ..*timing }
}

fn lint_difference(
    server: &ServerLine<'_>,
    found: &CheckTiming,
    balancer: &BalancerSpec,
    report: &mut LintReport<'_>,
) {
    let bounds = |timing: &CheckTiming| {
        format!(
            "DOWN up to {}, UP up to {}",
            format(compute_detection_time(timing, Switch::Off)),
            format(compute_detection_time(timing, Switch::On))
        )
    };
    report.add(
        Warning,
        "haproxy-timing-differs",
        server.number,
        format!(
            "by these lines a switch takes {}; by `load_balancers[].check` in switchman.yaml {}",
            bounds(found),
            bounds(&balancer.check)
        ),
        format!(
            "write `check: {}` in the entry `{}` of `load_balancers` in switchman.yaml, or its settings on every server line: one \
             entry is for all hosts and services. Where the lines differ, take the slowest",
            format_yaml(found),
            balancer.name
        ),
    );
}

pub(super) fn format_yaml(timing: &CheckTiming) -> String {
    let optional = |key: &str, time: Option<Duration>| {
        time.map(|time| format!(", {key}: {}", format(time))).unwrap_or_default()
    };
    format!(
        "{{inter: {}{}, fall: {}, rise: {}{}}}",
        format(timing.inter),
        optional("fastinter", timing.fastinter),
        timing.fall,
        timing.rise,
        optional("timeout", timing.timeout)
    )
}

/// `500`, `500ms`, `2s`, `1m`, `900us`: without a unit, milliseconds; at most 2^31 of them (configuration manual, 2.5).
pub(super) fn parse_haproxy_time(text: &str) -> Option<Duration> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text[..end].parse().ok()?;
    let time = match &text[end..] {
        "us" => Duration::from_micros(number),
        "" | "ms" => Duration::from_millis(number),
        "s" => Duration::from_secs(number),
        "m" => Duration::from_secs(number.checked_mul(60)?),
        "h" => Duration::from_secs(number.checked_mul(3600)?),
        "d" => Duration::from_secs(number.checked_mul(86_400)?),
        _ => return None,
    };
    (time <= MAX_DURATION).then_some(time)
}

/// Whether HAProxy reads the text as a time.
pub(super) fn is_haproxy_time(text: &str) -> bool {
    parse_haproxy_time(text).is_some()
}

const MAX_DURATION: Duration = Duration::from_millis(i32::MAX as u64);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_parsed_like_haproxy() {
        let ms = |ms| Some(Duration::from_millis(ms));
        for (text, time) in [
            ("500", ms(500)),
            ("2s", ms(2000)),
            ("1m", ms(60_000)),
            ("9000us", ms(9)),
            ("2147483647", ms(2_147_483_647)),
            ("2147483648", None),
            ("18446744073709551615", None),
            ("18446744073709551615us", None),
            ("300000000000000d", None),
            ("", None),
            ("us", None),
            ("fast", None),
            ("1m30s", None),
            ("1d", ms(86_400_000)),
        ] {
            assert_eq!(parse_haproxy_time(text), time, "`{text}`");
        }
    }
}
