//! Which file of the crate imports which, read with `syn`. A name that a module only hands on (`pub use`) counts for the file
//! that defines it. Code under `#[cfg(test)]` is left out.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use proc_macro2::{TokenStream, TokenTree};
use quote::ToTokens;
use syn::{Attribute, Item, UseTree, Visibility};

/// All `.rs` files below a directory.
pub fn sources(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|ext| ext == "rs") {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// An imported path, as written: `crate::model::name::HostName`, bound to `HostName`.
#[derive(Debug, Clone)]
struct Use {
    bound: String,
    path: Vec<String>,
    is_reexport: bool,
}

#[derive(Debug, Default)]
struct Module {
    items: BTreeSet<String>,
    children: BTreeSet<String>,
    uses: Vec<Use>,
    /// Paths in code, such as `crate::a::b` or `rules::read`.
    paths: BTreeSet<Vec<String>>,
    words: BTreeSet<String>,
}

/// A file that imports another, with the names it takes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Arrow {
    pub from: String,
    pub to: String,
    pub names: BTreeSet<String>,
}

/// The crate's modules by path: `ops::fleet::forward`; the root is the empty path.
#[derive(Debug, Default)]
pub struct Crate {
    modules: BTreeMap<String, Module>,
}

impl Crate {
    /// Reads every file of a crate's `src`, but those under `#[cfg(test)]`.
    pub fn read(src: &Path) -> Self {
        let mut krate = Self::default();
        krate.add(&src.join("lib.rs"), "");
        krate
    }

    fn add(&mut self, file: &Path, path: &str) {
        let text = std::fs::read_to_string(file).unwrap();
        let parsed = syn::parse_file(&text).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        let mut module = Module::default();
        read_items(&parsed.items, &mut module);
        let dir = match file.file_name().and_then(|name| name.to_str()) {
            Some("mod.rs" | "lib.rs") => file.parent().unwrap().to_owned(),
            _ => file.with_extension(""),
        };
        let children = module.children.clone();
        self.modules.insert(path.to_owned(), module);
        for child in children {
            let flat = dir.join(format!("{child}.rs"));
            let below = if flat.exists() { flat } else { dir.join(&child).join("mod.rs") };
            self.add(&below, &join(path, &child));
        }
    }

    /// The absolute paths, as written, that every module names: imports and paths in code.
    pub fn named(&self) -> BTreeMap<String, BTreeSet<String>> {
        let named = |(path, module): (&String, &Module)| {
            let uses = module.uses.iter().map(|one| &one.path).chain(&module.paths);
            let absolute = uses.filter_map(|one| absolute(path, one)).map(|one| one.join("::"));
            (path.clone(), absolute.collect())
        };
        self.modules.iter().map(named).collect()
    }

    /// Every identifier in the code of every module.
    pub fn words(&self) -> BTreeMap<String, &BTreeSet<String>> {
        self.modules.iter().map(|(path, module)| (path.clone(), &module.words)).collect()
    }

    /// The module that defines what a path names, and the name.
    fn resolve(&self, from: &str, path: &[String], depth: usize) -> Option<(String, String)> {
        let absolute = absolute(from, path)?;
        let mut here = String::new();
        for (at, word) in absolute.iter().enumerate() {
            let module = self.modules.get(&here)?;
            let child = join(&here, word);
            if self.modules.contains_key(&child) {
                // A function may have its module's name.
                let last = at + 1 == absolute.len();
                let handed_on = module.uses.iter().find(|one| one.is_reexport && one.bound == *word);
                if let Some(one) = handed_on.filter(|_| last && depth < 16) {
                    return self.resolve(&here, &one.path, depth + 1);
                }
                here = child;
                continue;
            }
            if module.items.contains(word) {
                return Some((here, word.clone()));
            }
            let Some(one) = module.uses.iter().find(|one| one.bound == *word).filter(|_| depth < 16) else {
                return Some((here, word.clone()));
            };
            let rest = one.path.iter().chain(&absolute[at + 1..]).cloned().collect::<Vec<_>>();
            return self.resolve(&here, &rest, depth + 1);
        }
        Some((here, "self".to_owned()))
    }

    /// Lists the names that every file imports from every other one.
    pub fn arrows(&self) -> Vec<Arrow> {
        let mut arrows: BTreeMap<(String, String), BTreeSet<String>> = BTreeMap::new();
        for (from, module) in &self.modules {
            let used =
                module.uses.iter().filter(|one| module.words.contains(&one.bound)).map(|one| &one.path);
            for path in used.chain(&module.paths) {
                let local = path.first().is_some_and(|first| module.children.contains(first));
                let path: Vec<String> = if local {
                    ["self".to_owned()].iter().chain(path).cloned().collect()
                } else {
                    path.clone()
                };
                let Some((to, name)) = self.resolve(from, &path, 0) else { continue };
                if to != *from {
                    arrows.entry((from.clone(), to)).or_default().insert(name);
                }
            }
        }
        arrows.into_iter().map(|((from, to), names)| Arrow { from, to, names }).collect()
    }

    /// The arrows inside each set of files that reach each other.
    pub fn circles(&self) -> Vec<Vec<Arrow>> {
        let arrows = self.arrows();
        let reach = |start: &str| -> BTreeSet<&str> {
            let (mut seen, mut open) = (BTreeSet::new(), vec![start.to_owned()]);
            while let Some(here) = open.pop() {
                for arrow in arrows.iter().filter(|arrow| arrow.from == here) {
                    if seen.insert(arrow.to.as_str()) {
                        open.push(arrow.to.clone());
                    }
                }
            }
            seen
        };
        let reached: BTreeMap<&str, BTreeSet<&str>> =
            self.modules.keys().map(|path| (path.as_str(), reach(path))).collect();
        let mut circles: BTreeMap<BTreeSet<&str>, Vec<Arrow>> = BTreeMap::new();
        for arrow in &arrows {
            let there = &reached[arrow.to.as_str()];
            if there.contains(arrow.from.as_str()) {
                let members: BTreeSet<&str> = there
                    .iter()
                    .filter(|one| reached[**one].contains(arrow.from.as_str()))
                    .copied()
                    .collect();
                circles.entry(members).or_default().push(arrow.clone());
            }
        }
        circles.into_values().collect()
    }
}

fn join(path: &str, child: &str) -> String {
    if path.is_empty() { child.to_owned() } else { format!("{path}::{child}") }
}

/// `super::rules` in `ops::host::check` -> `ops::host::rules`; `None`: not of this crate.
fn absolute(from: &str, path: &[String]) -> Option<Vec<String>> {
    let mut here: Vec<String> = from.split("::").filter(|word| !word.is_empty()).map(str::to_owned).collect();
    let mut words = path.iter().peekable();
    match words.peek().map(|word| word.as_str()) {
        Some("crate") => {
            words.next();
            here.clear();
        }
        Some("self") => {
            words.next();
        }
        Some("super") => {
            while words.next_if(|word| *word == "super").is_some() {
                here.pop();
            }
        }
        _ => return None,
    }
    here.extend(words.cloned());
    Some(here)
}

fn is_test(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("cfg") && attribute.meta.to_token_stream().to_string().contains("test")
    })
}

fn read_items(items: &[Item], module: &mut Module) {
    for item in items {
        match item {
            Item::Use(one) if !is_test(&one.attrs) => {
                let is_reexport = !matches!(one.vis, Visibility::Inherited);
                read_use(&one.tree, &mut Vec::new(), is_reexport, &mut module.uses);
            }
            Item::Mod(one) if !is_test(&one.attrs) => match &one.content {
                Some((_, items)) => read_items(items, module),
                None => {
                    module.children.insert(one.ident.to_string());
                }
            },
            Item::Use(_) | Item::Mod(_) => {}
            item => {
                if let Some(name) = name_of(item) {
                    module.items.insert(name);
                }
                read_code(item.to_token_stream(), module);
            }
        }
    }
}

fn name_of(item: &Item) -> Option<String> {
    Some(match item {
        Item::Const(one) => one.ident.to_string(),
        Item::Enum(one) => one.ident.to_string(),
        Item::Fn(one) => one.sig.ident.to_string(),
        Item::Static(one) => one.ident.to_string(),
        Item::Struct(one) => one.ident.to_string(),
        Item::Trait(one) => one.ident.to_string(),
        Item::Type(one) => one.ident.to_string(),
        Item::Macro(one) => one.ident.as_ref()?.to_string(),
        _ => return None,
    })
}

fn read_use(tree: &UseTree, path: &mut Vec<String>, is_reexport: bool, uses: &mut Vec<Use>) {
    let mut add = |path: Vec<String>, bound: String| uses.push(Use { bound, path, is_reexport });
    match tree {
        UseTree::Path(one) => {
            path.push(one.ident.to_string());
            read_use(&one.tree, path, is_reexport, uses);
            path.pop();
        }
        UseTree::Name(one) if one.ident == "self" => add(path.clone(), path.last().unwrap().clone()),
        UseTree::Name(one) => {
            add(path.iter().cloned().chain([one.ident.to_string()]).collect(), one.ident.to_string());
        }
        UseTree::Rename(one) => {
            add(path.iter().cloned().chain([one.ident.to_string()]).collect(), one.rename.to_string());
        }
        UseTree::Group(group) => {
            for tree in &group.items {
                read_use(tree, path, is_reexport, uses);
            }
        }
        UseTree::Glob(_) => {}
    }
}

/// Identifiers, and paths that begin with `crate`, `self`, `super` or a word that may be a module.
fn read_code(tokens: TokenStream, module: &mut Module) {
    let mut path: Vec<String> = Vec::new();
    let mut colons = 0;
    let flush = |path: &mut Vec<String>, module: &mut Module| {
        if path.len() > 1 {
            module.paths.insert(std::mem::take(path));
        }
        path.clear();
    };
    for token in tokens {
        match token {
            TokenTree::Ident(ident) => {
                if colons != 2 {
                    flush(&mut path, module);
                }
                colons = 0;
                module.words.insert(ident.to_string());
                path.push(ident.to_string());
            }
            TokenTree::Punct(punct) if punct.as_char() == ':' => colons += 1,
            TokenTree::Group(group) => {
                flush(&mut path, module);
                colons = 0;
                read_code(group.stream(), module);
            }
            _ => {
                flush(&mut path, module);
                colons = 0;
            }
        }
    }
    flush(&mut path, module);
}
