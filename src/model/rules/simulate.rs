//! A simulation of what `iptables-restore --noflush` does to a table, for tests of plans and operations.

use super::{Rule, Table, Transaction, split_words};

/// Why `iptables-restore` refuses a transaction.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cannot apply `{line}`: {cause}")]
pub struct TransactionError {
    pub line: String,
    #[source]
    pub cause: LineError,
}

/// Why `iptables-restore` refuses a line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LineError {
    #[error("a quote is left open")]
    OpenQuote,
    #[error("there is no chain `{0}`")]
    NoChain(String),
    #[error("there is no such rule")]
    NoRule,
    #[error("the chain is in use or missing")]
    ChainInUse,
    #[error("the command is unknown")]
    UnknownCommand,
}

impl Table {
    /// A kernel's empty nat table.
    pub fn empty_nat() -> Self {
        let policy = Some("ACCEPT".to_owned());
        let chains = ["INPUT", "OUTPUT", "POSTROUTING", "PREROUTING"];
        Self { chains: chains.map(|chain| (chain.to_owned(), policy.clone())).into(), ..Self::default() }
    }

    /// All of the transaction, or the reason why none of it.
    pub fn apply_transaction(&mut self, transaction: &Transaction) -> Result<(), TransactionError> {
        let mut next = self.clone();
        for line in transaction.text.lines() {
            next.apply_line(line).map_err(|cause| TransactionError { line: line.to_owned(), cause })?;
        }
        *self = next;
        Ok(())
    }

    fn apply_line(&mut self, line: &str) -> Result<(), LineError> {
        let words = split_words(line).ok_or(LineError::OpenQuote)?;
        let known = |table: &Self, chain: &str| {
            table
                .chains
                .contains_key(chain)
                .then(|| chain.to_owned())
                .ok_or_else(|| LineError::NoChain(chain.to_owned()))
        };
        let rule = |chain: String, words: &[String]| Rule { chain, words: words.to_vec() };
        match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
            ["*nat" | "COMMIT"] => {}
            [name, "-", _] if name.starts_with(':') => {
                self.rules.retain(|rule| rule.chain != name[1..]);
                self.chains.insert(name[1..].to_owned(), None);
            }
            ["-A", chain, ..] => self.rules.push(rule(known(self, chain)?, &words[2..])),
            ["-I", chain, "1", ..] => {
                let rule = rule(known(self, chain)?, &words[3..]);
                let first = self.rules.iter().position(|other| other.chain == chain);
                self.rules.insert(first.unwrap_or(self.rules.len()), rule);
            }
            ["-D", chain, ..] => {
                let rule = rule(known(self, chain)?, &words[2..]);
                let at = self.rules.iter().position(|other| *other == rule).ok_or(LineError::NoRule)?;
                self.rules.remove(at);
            }
            ["-F", chain] => self.rules.retain(|rule| rule.chain != chain),
            ["-X", chain] => {
                let used = self
                    .rules
                    .iter()
                    .any(|rule| rule.chain == chain || rule.option_value("-j") == Some(chain));
                if used || self.chains.remove(chain).is_none() {
                    return Err(LineError::ChainInUse);
                }
            }
            _ => return Err(LineError::UnknownCommand),
        }
        Ok(())
    }
}
