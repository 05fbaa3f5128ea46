//! The files of an agent that name its clients: tokens with their names, and names of certificates; each with a role.

use super::client_role::{ClientRole, RoleError};

/// Longest name of a client, as that of a certificate (RFC 5280, `ub-common-name`).
const MAX_NAME_LENGTH: usize = 64;
/// The name of a token that has none.
const UNNAMED: &str = "token";

/// A bearer token of `--token-file`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedToken {
    pub name: String,
    pub token: String,
    pub role: ClientRole,
}

/// A client of `--clients`, by the name of its certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedClient {
    pub name: String,
    pub role: ClientRole,
}

/// Why a file does not name clients. No message has a token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClientListError {
    #[error("it names no client")]
    Empty,
    #[error("line {line}: expected {expected}")]
    Form { line: usize, expected: &'static str },
    #[error("line {line}: a name has letters, digits and `-_.@`, and at most {MAX_NAME_LENGTH} characters")]
    Name { line: usize },
    #[error("line {line}: {source}")]
    Role { line: usize, source: RoleError },
    #[error("line {line}: the name `{name}` is there twice")]
    SameName { line: usize, name: String },
    #[error("line {line}: `{name}` and `{other}` have the same token")]
    SameToken { line: usize, name: String, other: String },
}

/// Reads a token file: one token alone, or lines of `NAME TOKEN [ROLE]`. Empty lines and lines with `#` are left out.
pub fn parse_tokens(text: &str) -> Result<Vec<NamedToken>, ClientListError> {
    let lines = list_lines(text);
    if let [(_, line)] = lines[..]
        && !is_named_token(line)
    {
        return Ok(vec![NamedToken {
            name: UNNAMED.to_owned(),
            token: line.to_owned(),
            role: ClientRole::All,
        }]);
    }
    let mut tokens: Vec<NamedToken> = Vec::new();
    for (number, text) in lines {
        let words: Vec<&str> = text.split_whitespace().collect();
        let (name, token, role) = match words[..] {
            [name, token] => (name, token, None),
            [name, token, role] => (name, token, Some(role)),
            _ => return Err(ClientListError::Form { line: number, expected: "`NAME TOKEN [ROLE]`" }),
        };
        let name = parse_name(number, name)?;
        if let Some(other) = tokens.iter().find(|other| other.token == token) {
            return Err(ClientListError::SameToken { line: number, name, other: other.name.clone() });
        }
        require_new(number, &name, tokens.iter().map(|other| &other.name))?;
        tokens.push(NamedToken { name, token: token.to_owned(), role: parse_role(number, role)? });
    }
    if tokens.is_empty() { Err(ClientListError::Empty) } else { Ok(tokens) }
}

/// Reads a list of clients: lines of `NAME [ROLE]`. Empty lines and lines with `#` are left out.
pub fn parse_clients(text: &str) -> Result<Vec<ListedClient>, ClientListError> {
    let mut clients: Vec<ListedClient> = Vec::new();
    for (number, text) in list_lines(text) {
        let words: Vec<&str> = text.split_whitespace().collect();
        let (name, role) = match words[..] {
            [name] => (name, None),
            [name, role] => (name, Some(role)),
            _ => return Err(ClientListError::Form { line: number, expected: "`NAME [ROLE]`" }),
        };
        let name = parse_name(number, name)?;
        require_new(number, &name, clients.iter().map(|other| &other.name))?;
        clients.push(ListedClient { name, role: parse_role(number, role)? });
    }
    if clients.is_empty() { Err(ClientListError::Empty) } else { Ok(clients) }
}

fn list_lines(text: &str) -> Vec<(usize, &str)> {
    let lines = text.lines().enumerate().map(|(index, line)| (index + 1, line.trim()));
    lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#')).collect()
}

/// Returns whether the only line of a file has a name and a role beside its token. A token of several words is one of an older version.
fn is_named_token(line: &str) -> bool {
    let words: Vec<&str> = line.split_whitespace().collect();
    match words[..] {
        [_, _] => true,
        [_, _, role] => role.parse::<ClientRole>().is_ok(),
        _ => false,
    }
}

fn parse_name(line: usize, name: &str) -> Result<String, ClientListError> {
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || "-_.@".contains(c);
    if name.len() <= MAX_NAME_LENGTH && name.chars().all(is_allowed) {
        return Ok(name.to_owned());
    }
    Err(ClientListError::Name { line })
}

fn parse_role(line: usize, role: Option<&str>) -> Result<ClientRole, ClientListError> {
    let role = role.map_or(Ok(ClientRole::All), str::parse);
    role.map_err(|source| ClientListError::Role { line, source })
}

fn require_new<'a>(
    line: usize,
    name: &str,
    mut others: impl Iterator<Item = &'a String>,
) -> Result<(), ClientListError> {
    if others.any(|other| other == name) {
        return Err(ClientListError::SameName { line, name: name.to_owned() });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = "9f86d081884c7d659a2feaa0c55ad015";
    const TWO: &str = "1f3870be274f6c49b3e31a0c6728957f";

    #[test]
    fn token_file_has_one_token_or_a_name_for_each() {
        let read = |text: &str| {
            parse_tokens(text).map(|tokens| {
                tokens
                    .into_iter()
                    .map(|token| format!("{} {} {}", token.name, token.token, token.role))
                    .collect::<Vec<_>>()
            })
        };
        let bare = "a token that is long enough";
        assert_eq!(read(&format!("{ONE}\n")), Ok(vec![format!("token {ONE} all")]));
        assert_eq!(read(bare), Ok(vec![format!("token {bare} all")]));
        let lines = format!("# operators\n\nann {ONE}\n  ci-1\t{TWO} switch \n");
        assert_eq!(read(&lines), Ok(vec![format!("ann {ONE} all"), format!("ci-1 {TWO} switch")]));
        assert_eq!(read(&format!("ann {ONE} read")), Ok(vec![format!("ann {ONE} read")]));
        let refused = [
            (String::new(), "it names no client"),
            ("# none".to_owned(), "it names no client"),
            (format!("ann {ONE}\n{TWO}"), "line 2: expected `NAME TOKEN [ROLE]`"),
            (
                format!("ann {ONE}\nbob {TWO} admin"),
                "line 2: `admin` is not a role: the roles are `read`, `switch` and `all`",
            ),
            (format!("ann {ONE}\nann {TWO}"), "line 2: the name `ann` is there twice"),
            (format!("ann {ONE}\nbob {ONE}"), "line 2: `bob` and `ann` have the same token"),
            (
                format!("a/n {ONE}\nbob {TWO}"),
                "line 1: a name has letters, digits and `-_.@`, and at most 64 characters",
            ),
        ];
        for (text, message) in refused {
            let error = read(&text).unwrap_err().to_string();
            assert_eq!(error, message);
            assert!(!error.contains(ONE) && !error.contains(TWO), "{error}");
        }
    }

    #[test]
    fn client_list_has_names_and_roles() {
        let clients = parse_clients("ops\nci read # comment").unwrap_err();
        assert_eq!(clients, ClientListError::Form { line: 2, expected: "`NAME [ROLE]`" });
        let clients = parse_clients("ops\n# the job\nci@web.example switch\n").unwrap();
        let clients: Vec<_> = clients.iter().map(|client| (client.name.as_str(), client.role)).collect();
        assert_eq!(clients, [("ops", ClientRole::All), ("ci@web.example", ClientRole::Switch)]);
        assert_eq!(
            parse_clients("ops\nops read").unwrap_err().to_string(),
            "line 2: the name `ops` is there twice"
        );
        assert_eq!(parse_clients(""), Err(ClientListError::Empty));
    }
}
