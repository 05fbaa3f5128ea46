//! Comments and string literals of Rust source, with their lines.

use proc_macro2::{TokenStream, TokenTree};
use quote::ToTokens;

/// Consecutive comment lines of one kind.
pub struct Comment {
    /// The first line, from 1.
    pub line: usize,
    pub text: String,
    pub is_doc: bool,
}

/// The text after `//`, `///` or `//!` of a line, and whether it documents an item; `None`: no comment.
fn comment_of(line: &str) -> Option<(String, bool)> {
    let (mut in_string, mut before) = (false, '\0');
    let bytes: Vec<char> = line.chars().collect();
    for (at, c) in bytes.iter().enumerate() {
        match c {
            '"' if before != '\\' && !(before == '\'' && bytes.get(at + 1) == Some(&'\'')) => {
                in_string = !in_string;
            }
            '/' if !in_string && bytes.get(at + 1) == Some(&'/') && before != ':' => {
                let text: String = bytes[at + 2..].iter().collect();
                let is_doc = text.starts_with('/') && !text.starts_with("//");
                return Some((text.trim_start_matches(['/', '!']).trim().to_owned(), is_doc));
            }
            _ => {}
        }
        before = *c;
    }
    None
}

/// All line comments; the lines of one paragraph are one comment. Code blocks in documentation are left out.
pub fn comments(source: &str) -> Vec<Comment> {
    let mut found: Vec<Comment> = Vec::new();
    let mut last = 0;
    let mut in_block = false;
    for (at, line) in source.lines().enumerate() {
        let number = at + 1;
        let Some((text, is_doc)) = comment_of(line) else { continue };
        if text.starts_with("```") {
            in_block = !in_block;
            continue;
        }
        if in_block {
            continue;
        }
        let whole_line = line.trim_start().starts_with("//");
        match found.last_mut() {
            Some(comment) if whole_line && last + 1 == number && comment.is_doc == is_doc => {
                comment.text.push(' ');
                comment.text.push_str(&text);
            }
            _ => found.push(Comment { line: number, text, is_doc }),
        }
        last = number;
    }
    found
}

/// String literals outside of tests and of attributes that no user reads, with their lines.
pub fn literals(source: &str) -> Vec<(usize, String)> {
    let parsed = syn::parse_file(source).expect("the source parses");
    let mut found = Vec::new();
    for item in &parsed.items {
        let text = item.to_token_stream();
        let is_test = attributes(item).iter().any(|attribute| {
            attribute.path().is_ident("cfg") && attribute.meta.to_token_stream().to_string().contains("test")
        });
        if !is_test {
            collect(text, &mut found);
        }
    }
    found
}

fn attributes(item: &syn::Item) -> &[syn::Attribute] {
    match item {
        syn::Item::Mod(item) => &item.attrs,
        syn::Item::Fn(item) => &item.attrs,
        syn::Item::Impl(item) => &item.attrs,
        syn::Item::Use(item) => &item.attrs,
        _ => &[],
    }
}

fn collect(tokens: TokenStream, found: &mut Vec<(usize, String)>) {
    let mut tokens = tokens.into_iter().peekable();
    while let Some(token) = tokens.next() {
        match token {
            TokenTree::Punct(punct) if punct.as_char() == '#' => {
                // Documentation is a comment, a lint's reason is for contributors.
                if let Some(TokenTree::Group(group)) = tokens.peek() {
                    let text = group.stream().to_string();
                    if ["doc ", "doc=", "allow", "expect", "serde"]
                        .iter()
                        .any(|start| text.starts_with(start))
                    {
                        tokens.next();
                    }
                }
            }
            TokenTree::Group(group) => collect(group.stream(), found),
            TokenTree::Literal(literal) => {
                let line = literal.span().start().line;
                if let Ok(text) = syn::parse2::<syn::LitStr>(TokenTree::Literal(literal).into()) {
                    found.push((line, text.value()));
                }
            }
            _ => {}
        }
    }
}

/// The line and the three before it: a row's id is written beside what it quotes.
pub fn around(source: &str, line: usize) -> String {
    source.lines().skip(line.saturating_sub(4)).take(4).collect::<Vec<_>>().join("\n")
}

/// Whether a text names a row of docs/design/seed-systems.md, such as `D13` or `R20`.
pub fn is_named_by_a_row(text: &str) -> bool {
    text.split(|c: char| !c.is_alphanumeric()).any(|word| {
        let mut rest = word.chars();
        matches!(rest.next(), Some('D' | 'R'))
            && (2..=3).contains(&word.len())
            && rest.all(|c| c.is_ascii_digit())
    })
}
