//! The programs that a command certainly starts: they are looked for before the first host is touched.

/// The shells whose `-c` takes a script.
const SHELLS: [&str; 4] = ["sh", "bash", "dash", "ash"];

/// Returns the program itself and, for `sh -c SCRIPT`, the program file that the script certainly starts.
pub fn find_required_programs(argv: &[String]) -> Vec<&str> {
    let Some((program, args)) = argv.split_first() else { return vec![] };
    let script = match args {
        [flag, script, ..] if is_shell(program) && is_script_flag(flag) => find_first_file(script),
        _ => None,
    };
    std::iter::once(program.as_str()).chain(script).collect()
}

fn is_shell(program: &str) -> bool {
    program.rsplit('/').next().is_some_and(|name| SHELLS.contains(&name))
}

/// `-c`, `-ec`, `-euxc`. A login shell may change the directory first.
fn is_script_flag(flag: &str) -> bool {
    flag.strip_prefix('-')
        .and_then(|letters| letters.strip_suffix('c'))
        .is_some_and(|letters| letters.chars().all(|letter| "eux".contains(letter)))
}

/// Returns the first word of a script if it names a file and the script fails without it. Of a bare word it is not certain
/// that it is no function or builtin, and of a list that it fails.
fn find_first_file(script: &str) -> Option<&str> {
    let word = script.split_whitespace().next()?;
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "._/+-".contains(c);
    let rest = script.trim().replace("&&", "");
    (word.contains('/') && word.chars().all(is_plain) && !rest.contains([';', '|', '&', '\n']))
        .then_some(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(argv: &[&str]) -> Vec<String> {
        let argv: Vec<String> = argv.iter().map(|word| (*word).to_owned()).collect();
        find_required_programs(&argv).into_iter().map(str::to_owned).collect()
    }

    #[test]
    fn only_certain_programs_are_required() {
        assert_eq!(find(&["./deploy.sh", "v3"]), ["./deploy.sh"]);
        for (flag, script) in [
            ("-c", "./a.sh $VERSION"),
            ("-ec", " ./a.sh"),
            ("-c", "./a.sh && ./b.sh"),
            ("-euxc", "./a.sh >log"),
        ] {
            assert_eq!(find(&["sh", flag, script]), ["sh", "./a.sh"], "{flag} {script}");
        }
        for script in [
            "a.sh",
            "cd app && ./a.sh",
            "./a.sh || ./b.sh",
            "./a.sh; true",
            "./a.sh | tee log",
            "./a.sh & wait",
            "./a.sh\ntrue",
            "$HOME/a.sh",
            "VERSION=3 ./a.sh",
            "",
        ] {
            assert_eq!(find(&["bash", "-c", script]), ["bash"], "{script}");
        }
        assert_eq!(find(&["bash", "-lc", "./a.sh"]), ["bash"]);
        assert_eq!(find(&["python3", "-c", "./a.sh"]), ["python3"]);
        assert!(find(&[]).is_empty());
    }
}
