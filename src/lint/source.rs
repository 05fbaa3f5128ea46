//! The files of one HAProxy, in its order, and the names that its server lines may use.

use std::collections::BTreeMap;
use std::net::IpAddr;

/// A configuration file with the name it is called by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CfgFile {
    pub name: String,
    pub text: String,
    /// It begins with a byte order mark, which HAProxy takes for a word.
    pub has_byte_order_mark: bool,
}

impl CfgFile {
    /// Decodes a file. HAProxy reads bytes: what is not UTF-8 is taken as Latin-1, so that no word is lost.
    pub fn decode(name: impl Into<String>, bytes: &[u8]) -> Self {
        let text = match std::str::from_utf8(bytes) {
            Ok(text) => text.to_owned(),
            Err(_) => bytes.iter().map(|byte| char::from(*byte)).collect(),
        };
        let stripped = text.strip_prefix('\u{feff}');
        let has_byte_order_mark = stripped.is_some();
        let text = stripped.map_or_else(|| text.clone(), str::to_owned);
        Self { name: name.into(), text, has_byte_order_mark }
    }
}

/// The configuration of one HAProxy.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HaproxyCfg {
    /// In the order in which HAProxy reads them.
    pub files: Vec<CfgFile>,
    /// Addresses of names, as in `/etc/hosts`. No name is looked up anywhere else.
    pub addresses: BTreeMap<String, Vec<IpAddr>>,
}

/// Reads the names of a hosts file.
pub fn parse_hosts_file(text: &str) -> BTreeMap<String, Vec<IpAddr>> {
    let mut addresses: BTreeMap<String, Vec<IpAddr>> = BTreeMap::new();
    for line in text.lines() {
        let mut words = line.split('#').next().unwrap_or_default().split_whitespace();
        let Some(Ok(address)) = words.next().map(str::parse) else { continue };
        for name in words {
            addresses.entry(name.to_owned()).or_default().push(address);
        }
    }
    addresses
}

/// Lines of all files with numbers that go on from file to file.
#[derive(Debug, Default)]
pub(super) struct LineMap {
    /// First number and name of each file.
    files: Vec<(usize, String)>,
}

impl LineMap {
    pub(super) fn new(cfg: &HaproxyCfg) -> Self {
        let mut next = 1;
        let mut files = Vec::new();
        for file in &cfg.files {
            files.push((next, file.name.clone()));
            next += file.text.lines().count();
        }
        Self { files }
    }

    pub(super) fn list_starts(&self) -> Vec<usize> {
        self.files.iter().map(|(start, _)| *start).collect()
    }

    /// `FILE:LINE` of a number; 0 is the configuration as a whole.
    pub(super) fn describe(&self, number: usize) -> String {
        let file = self.files.iter().rev().find(|(start, _)| (1..=number).contains(start));
        match file {
            Some((start, name)) => format!("{name}:{}", number - start + 1),
            None if self.files.is_empty() => "haproxy.cfg".to_owned(),
            None => self.files.iter().map(|(_, name)| name.as_str()).collect::<Vec<_>>().join(", "),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_decoded_without_loss() {
        assert_eq!(CfgFile::decode("f", b"caf\xe9 x").text, "caf\u{e9} x");
        let marked = CfgFile::decode("f", b"\xef\xbb\xbfglobal");
        assert_eq!((marked.text.as_str(), marked.has_byte_order_mark), ("global", true));
    }

    #[test]
    fn numbers_are_described_by_file_and_line() {
        let files = [("a", "1\n2\n"), ("empty", ""), ("b", "3")];
        let files = files.map(|(name, text)| CfgFile::decode(name, text.as_bytes())).to_vec();
        let map = LineMap::new(&HaproxyCfg { files, ..HaproxyCfg::default() });
        assert_eq!([1, 2, 3].map(|number| map.describe(number)), ["a:1", "a:2", "b:1"]);
        assert_eq!(map.describe(0), "a, empty, b");
    }

    #[test]
    fn hosts_file_is_read() {
        let found = parse_hosts_file("10.0.0.11 web1 web1.lan # x\n::1 web1\nbad line\n");
        assert_eq!((found["web1"].len(), found["web1.lan"].len(), found.len()), (2, 1, 2));
    }
}
