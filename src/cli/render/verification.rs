//! The releases of hosts, compared with what was placed.

use std::fmt::Write as _;

use super::renderer::Renderer;
use super::table::format_table;
use crate::model::terminal_text::clean_line;
use crate::ops::fleet::deployments::{Verification, VerifiedRelease};

impl Renderer {
    pub fn print_verification(&self, verification: &Verification) {
        self.print("verification", verification, || format_verification(verification));
    }
}

fn format_verification(verification: &Verification) -> String {
    if verification.releases.is_empty() {
        return "no releases\n".to_owned();
    }
    let to_row = |one: &VerifiedRelease| {
        let digest: String = one.digest.0.chars().take(12).collect();
        vec![one.host.to_string(), one.service.to_string(), one.release.clone(), digest, describe_state(one)]
    };
    let rows = verification.releases.iter().map(to_row).collect();
    let mut text = format_table(&["HOST", "SERVICE", "RELEASE", "ARCHIVE", "FILES"], rows);
    for one in &verification.releases {
        for change in &one.check.changes {
            text += &clean_line(&format!("{} {}/{}: {change}", one.host, one.service, one.release));
            text.push('\n');
        }
        let more = one.check.total.saturating_sub(one.check.changes.len() as u64);
        if more > 0 {
            let release = clean_line(&one.release);
            let _ = writeln!(text, "{} {}/{release}: {more} more", one.host, one.service);
        }
    }
    text
}

fn describe_state(one: &VerifiedRelease) -> String {
    match &one.check {
        check if !check.has_manifest => "unknown: no manifest".to_owned(),
        check if check.is_altered() => "changed".to_owned(),
        check if check.changes.is_empty() => "unchanged".to_owned(),
        _ => "unchanged, files added".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::deployment::Digest;
    use crate::model::release::{FileChange, FileChangeKind, ReleaseCheck};

    #[test]
    fn table_and_every_change() {
        let change = |path: &str, kind| FileChange { path: path.to_owned(), kind };
        let release = |host: &str, release: &str, check| VerifiedRelease {
            host: host.parse().unwrap(),
            service: "shop".parse().unwrap(),
            release: release.to_owned(),
            digest: Digest("0123456789abcdef".repeat(4)),
            check,
        };
        let changes =
            vec![change("a\u{1b}[31m", FileChangeKind::Contents), change("b", FileChangeKind::Mode)];
        let added = vec![change("cache", FileChangeKind::Added)];
        let releases = vec![
            release("web1", "1.0.0", ReleaseCheck::new(Some(vec![]))),
            release("web1", "2.0.0~2", ReleaseCheck { total: 9, ..ReleaseCheck::new(Some(changes)) }),
            release("web2", "1.0.0", ReleaseCheck::new(Some(added))),
            release("web2", "2.0.0", ReleaseCheck::new(None)),
        ];
        let text = format_verification(&Verification { releases, unread: vec![] });
        let expected = r"HOST  SERVICE  RELEASE  ARCHIVE       FILES
web1  shop     1.0.0    0123456789ab  unchanged
web1  shop     2.0.0~2  0123456789ab  changed
web2  shop     1.0.0    0123456789ab  unchanged, files added
web2  shop     2.0.0    0123456789ab  unknown: no manifest
web1 shop/2.0.0~2: `a\u{1b}[31m` has other contents
web1 shop/2.0.0~2: `b` has another mode
web1 shop/2.0.0~2: 7 more
web2 shop/1.0.0: `cache` was added
";
        assert_eq!(text, expected);
        assert_eq!(format_verification(&Verification::default()), "no releases\n");
    }
}
