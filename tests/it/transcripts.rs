//! The transcripts of rolls in the documents, recorded from rolls in the lab. A block is compared with the real output, but for
//! durations, times, ids and counts; `UPDATE_DOCS=1` rewrites it.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use switchman::sys::exec::Output;

use crate::docs::{repository_root, update_requested};
use crate::quick_start::blocks::output_matches;
use crate::site::{Plan, Site};
use crate::testing::can_make_namespaces;

const UPDATE: &str = "UPDATE_DOCS=1 cargo nextest run --test it -E 'test(/^transcripts::/)'";

/// A page with blocks that follow a comment `<!-- transcript: NAME -->`.
struct Page {
    path: PathBuf,
    text: String,
    differs: Vec<String>,
}

impl Page {
    fn read(name: &str) -> Self {
        let path = repository_root().join("docs").join(name);
        Self { text: std::fs::read_to_string(&path).unwrap(), path, differs: vec![] }
    }

    fn compare(&mut self, name: &str, printed: &str) {
        let marker = format!("<!-- transcript: {name} -->\n\n```text\n");
        let begin = self.text.find(&marker).unwrap_or_else(|| panic!("no {marker:?}")) + marker.len();
        let end = begin + self.text[begin..].find("```\n").unwrap();
        let shown: Vec<String> = self.text[begin..end].lines().map(str::to_owned).collect();
        if output_matches(&shown, printed) {
            return;
        }
        if update_requested() {
            self.text.replace_range(begin..end, printed);
        } else {
            self.differs.push(format!("--- {name}: shown\n{}\n--- printed\n{printed}", shown.join("\n")));
        }
    }

    fn finish(self) {
        if update_requested() {
            std::fs::write(&self.path, self.text).unwrap();
        }
        assert!(
            self.differs.is_empty(),
            "{}: {}\nnext: {UPDATE}",
            self.path.display(),
            self.differs.join("\n")
        );
    }
}

/// Returns what a terminal shows of a roll: the result comes before the error. Lines whose number depends on the load are
/// left out: states of HAProxy on their way, and requests in flight.
fn print_roll(site: &Site, output: &Output) -> String {
    let is_steady = |line: &&str| {
        !line.starts_with("lb1: ") && !line.contains(": draining, ") && !line.starts_with("warning:")
    };
    let lines: Vec<&str> = output.stderr.lines().filter(is_steady).collect();
    let error = lines.iter().position(|line| line.starts_with("error:")).unwrap_or(lines.len());
    let result: Vec<&str> = output.stdout.lines().collect();
    let text = [&lines[..error], &result, &lines[error..]].concat().join("\n") + "\n";
    make_readable(site, &text)
}

/// Replaces names of the lab by those of the documents.
fn make_readable(site: &Site, text: &str) -> String {
    let dir = site.operator.dir().display().to_string();
    let mut text = text.replace(&dir, "/home/ops/shop").replace(" by root at ", " by ops at ");
    while let Some(at) =
        text.find("r20").filter(|at| text[*at..].len() >= 21 && &text[at + 9..=at + 9] == "-")
    {
        let id = text[at..at + 21].to_owned();
        text = text.replace(&id, "R@ID");
    }
    let lines = text.lines().map(|line| line.trim_end().to_owned() + "\n");
    lines.collect::<String>().replace("R@ID", "r20261127-050327-71a1")
}

/// Web3 fails, is repaired, and the roll is resumed.
#[tokio::test(flavor = "multi_thread")]
async fn rolls_of_the_documents_are_current() {
    if !can_make_namespaces() {
        return;
    }
    let site = Site::up("pages", Plan { hosts: 4, ..Plan::default() }).await;
    let mut rolling = Page::read("rolling.md");
    let mut scripts = Page::read("deploy-scripts.md");

    let work = site.replace("$1");
    let script = site.operator.dir().join("deploy.sh");
    let fails = "if [ $SWITCHMAN_HOST = web3 ] && [ ! -e repaired ]; then\n\
                 echo 'Job for shop-main.service failed because the control process exited with error code.' >&2; exit 1\n\
                 fi";
    std::fs::write(&script, format!("#!/bin/sh\n{fails}\n{}\n", work[2])).unwrap();
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    let command = ["./deploy.sh".to_owned(), "43.0.0".to_owned()];

    let plan = site.roll(&["--batch", "2", "--dry-run"], &command).await;
    rolling.compare("plan", &make_readable(&site, &plan.stdout));
    let missing = site.roll(&[], &["./deplyo.sh".to_owned()]).await;
    assert_eq!(missing.status, 1);
    rolling.compare("missing", &missing.stderr);

    let failed = site.roll(&[], &command).await;
    assert_eq!(failed.status, 3, "{}", failed.stderr);
    let text = print_roll(&site, &failed);
    rolling.compare("failed", &text);
    let end = text.find("web3 | Job").unwrap();
    let make = "some hosts are done, some are not: make resume, or make abort\nmake: *** [Makefile:2: deploy] Error 3\n";
    scripts.compare("failed", &format!("{}{make}", &text[end..]));
    let status = site.run(&["roll", "--status"]).await;
    rolling.compare("status", &make_readable(&site, &status.stdout));

    std::fs::write(site.operator.dir().join("repaired"), "").unwrap();
    let resumed = site.run(&["roll", "--resume"]).await;
    assert_eq!(resumed.status, 0, "{}", resumed.stderr);
    rolling.compare("resumed", &print_roll(&site, &resumed));
    site.down_without_loss().await;
    rolling.finish();
    scripts.finish();
}
