//! Clocks that differ: the times in histories, journals and locks of several machines are compared by people and programs.

use std::time::Duration;

use super::finding::build_warning;
use crate::model::duration;
use crate::model::finding::Finding;

/// Smaller differences confuse no reader of two histories.
const MAX_OFFSET: Duration = Duration::from_secs(2);

/// How far another clock is from this one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClockOffset {
    pub by: Duration,
    pub is_ahead: bool,
}

/// Measures the least offset that explains an answer: it was given at some time between the request and its arrival. `None` where
/// the clocks may be equal.
pub fn measure_clock_offset(
    asked_at: jiff::Timestamp,
    theirs: jiff::Timestamp,
    answered_at: jiff::Timestamp,
) -> Option<ClockOffset> {
    let ahead = theirs.duration_since(answered_at);
    let behind = asked_at.duration_since(theirs);
    let (by, is_ahead) = if ahead > behind { (ahead, true) } else { (behind, false) };
    let by = Duration::try_from(by).ok().filter(|by| !by.is_zero())?;
    Some(ClockOffset { by, is_ahead })
}

pub(super) fn check_clock(host: &str, offset: Option<ClockOffset>) -> Option<Finding> {
    let offset = offset.filter(|offset| offset.by > MAX_OFFSET)?;
    let direction = if offset.is_ahead { "ahead of" } else { "behind" };
    Some(build_warning(
        "clock-differs",
        host,
        format!(
            "its clock is {} {direction} this machine's: the times in its history do not match those here",
            duration::format(Duration::from_secs(offset.by.as_secs()))
        ),
        "let both machines follow a time server: `timedatectl set-ntp true`, or chrony",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offset_is_what_the_delay_does_not_explain() {
        let at = |second: i64| jiff::Timestamp::from_second(second).unwrap();
        let offset = |seconds, is_ahead| Some(ClockOffset { by: Duration::from_secs(seconds), is_ahead });
        assert_eq!(measure_clock_offset(at(100), at(101), at(103)), None, "an answer that was slow");
        assert_eq!(measure_clock_offset(at(100), at(110), at(103)), offset(7, true));
        assert_eq!(measure_clock_offset(at(100), at(90), at(103)), offset(10, false));
        assert_eq!(check_clock("web1", offset(2, true)), None);
        let found = check_clock("web1", offset(3700, false)).unwrap();
        assert!(found.reason.starts_with("its clock is 1h1m40s behind this machine's"), "{}", found.reason);
    }
}
