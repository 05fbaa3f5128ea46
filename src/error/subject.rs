//! The service and the version that a failed command was about, for the commands of its hint.

use crate::model::name::ServiceName;
use crate::model::version::Version;

/// Commands of hints whose VERSION is that of the failed command. In others, such as `assign`, it is another one.
const COMMANDS_WITH_VERSION: [&str; 4] = ["deploy", "update", "logs", "mirror"];

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    pub service: ServiceName,
    pub version: Option<Version>,
}

impl Subject {
    /// Puts the names into a hint in the place of NAME and VERSION, as far as they are known. The value of a flag is another name.
    pub fn fill(&self, hint: &str) -> String {
        let mut filled: Vec<String> = Vec::new();
        let mut previous = ["", ""];
        for word in hint.split(' ') {
            let bare = word.trim_end_matches(['`', ',', ';', ':']);
            let rest = &word[bare.len()..];
            let takes_version = COMMANDS_WITH_VERSION.contains(&previous[0]) && previous[1] == "NAME";
            filled.push(match (bare, &self.version) {
                ("NAME", _) if !previous[1].trim_start_matches('`').starts_with("--") => {
                    format!("{}{rest}", self.service)
                }
                ("VERSION", Some(version)) if takes_version => format!("{version}{rest}"),
                _ => word.to_owned(),
            });
            previous = [previous[1], bare];
        }
        filled.join(" ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hint_has_the_names_that_are_known() {
        let mut subject = Subject { service: "shop".parse().unwrap(), version: "2.0.0".parse().ok() };
        let hint = "`switchman ls NAME` lists them: `switchman assign NAME VERSION` makes one main, `switchman deploy NAME VERSION \
                    SOURCE` adds one, on a host with `--host NAME`; `switchman logs NAME VERSION` shows more";
        assert_eq!(
            subject.fill(hint),
            "`switchman ls shop` lists them: `switchman assign shop VERSION` makes one main, `switchman deploy shop 2.0.0 SOURCE` \
             adds one, on a host with `--host NAME`; `switchman logs shop 2.0.0` shows more"
        );
        subject.version = None;
        assert!(subject.fill(hint).contains("`switchman logs shop VERSION`"));
    }
}
