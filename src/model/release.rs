//! Names of releases: directories below a service, made of what came over a link.

/// A version of at most 64 characters, and `~` with the number of a build.
const MAX_LENGTH: usize = 100;

/// The pattern of a release name in the description of the API.
pub const PATTERN: &str = "^[0-9A-Za-z][0-9A-Za-z.+~-]{0,99}$";

/// A text that names no release.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{}` is not a release: a name has 1 to {MAX_LENGTH} letters, digits, `.`, `+`, `~` and `-`, and starts with a letter or a digit",
    .found.chars().take(MAX_LENGTH).collect::<String>().escape_debug()
)]
pub struct ReleaseNameError {
    pub found: String,
}

/// Checks that a text is a safe name of a directory: what starts with `.` there is our own, and what starts with `-` is a flag to anyone who
/// tidies up there by hand.
pub fn check_release_name(text: &str) -> Result<(), ReleaseNameError> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || ".+~-".contains(c);
    let begins = text.starts_with(|c: char| c.is_ascii_alphanumeric());
    if (1..=MAX_LENGTH).contains(&text.len()) && text.chars().all(allowed) && begins {
        Ok(())
    } else {
        Err(ReleaseNameError { found: text.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn release_name_accepts_only_safe_file_names() {
        for good in ["1.0.0", "2.1.0-rc.1+build.5", "1.0.0~12", "a"] {
            assert_eq!(check_release_name(good), Ok(()));
        }
        let long = "1".repeat(101);
        for bad in [
            "", ".", "..", ".hidden", "-rf", "~root", "a/b", "../x", "a b", "a\nb", "a_b", "１", "a\0", &long,
        ] {
            assert!(check_release_name(bad).is_err(), "{bad:?}");
        }
        let text = check_release_name("\x1b[2J").unwrap_err().to_string();
        assert!(text.starts_with(r"`\u{1b}[2J` is not a release"), "{text}");
    }
}
