//! Reads what `nft -s list ruleset` prints, as far as it translates addresses or ports.

/// Lines with `redirect` or `dnat`, behind the name of their table. Left out are the tables iptables-nft manages, whose rules
/// are read with its own tools: `nat` and the like in the families `ip` and `ip6`.
pub(super) fn find_statements(ruleset: &str) -> Vec<String> {
    let mut table = String::new();
    let mut found = Vec::new();
    for line in ruleset.lines().map(str::trim) {
        if let Some(rest) = line.strip_prefix("table ") {
            rest.trim_end_matches('{').trim().clone_into(&mut table);
            continue;
        }
        let managed = table.strip_prefix("ip ").or_else(|| table.strip_prefix("ip6 "));
        let managed =
            managed.is_some_and(|name| ["nat", "filter", "mangle", "raw", "security"].contains(&name));
        let translates = line.split_whitespace().any(|word| word == "redirect" || word == "dnat");
        if translates && !managed {
            found.push(format!("{table}: {line}"));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_include_only_native_translations() {
        let ruleset = "table ip nat {\n\tchain PREROUTING {\n\t\ttcp dport 8888 redirect to :8080\n\t}\n}\n\
                       table inet fw {\n\tchain pre {\n\t\ttype nat hook prerouting priority dstnat; policy accept;\n\
                       \t\ttcp dport 8888 redirect to :9000\n\t\ttcp dport 22 accept\n\t}\n}\n";
        assert_eq!(find_statements(ruleset), ["inet fw: tcp dport 8888 redirect to :9000"]);
        assert_eq!(find_statements(""), Vec::<String>::new());
    }
}
