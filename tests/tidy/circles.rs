//! Finds files that import each other in circles.
//!
//! A file imports another when one of its paths leads to an item there: through `crate`, `super` or
//! `self`, a child module, or a re-export of a `mod.rs`, which is followed to the file of the item.
//! A re-export itself is no import, and neither is anything that only a test build compiles.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::path::Path;

use crate::File;
use crate::is_word;
use crate::words;

/// One crate: its files by module path, and the names that each module re-exports.
pub struct Crate<'a> {
    modules: BTreeMap<Vec<String>, &'a File<'a>>,
    exports: BTreeMap<Vec<String>, BTreeMap<String, Vec<String>>>,
}

impl<'a> Crate<'a> {
    /// `files` lie below `root`, the folder of `lib.rs` or `main.rs`.
    pub fn new(root: &Path, files: &'a [File<'a>]) -> Crate<'a> {
        let modules: BTreeMap<_, _> = files
            .iter()
            .filter(|file| !file.is_test(usize::MAX))
            .filter_map(|file| Some((module_of(file.name.strip_prefix(root).ok()?), file)))
            .collect();
        let exports = modules.iter().map(|(module, file)| {
            let names = uses(&file.code).filter(|(_, is_export, _)| *is_export);
            let names = names.filter_map(|(_, _, item)| {
                let (path, alias) = item.split_once(" as ").unwrap_or((&item, ""));
                let path = absolute(segments(path), module);
                let name = if alias.is_empty() { path.last()?.as_str() } else { alias.trim() };
                Some((name.to_owned(), path.clone()))
            });
            (module.clone(), names.collect())
        });
        let exports = exports.collect();
        Crate { modules, exports }
    }

    /// Each group of files of which every one leads to every other, by their names.
    pub fn circles(&self) -> Vec<Vec<String>> {
        let edges: BTreeMap<_, _> =
            self.modules.keys().map(|module| (module, self.imports(module))).collect();
        let reached: BTreeMap<_, _> =
            edges.keys().map(|module| (*module, reach(module, &edges))).collect();
        let mut seen = BTreeSet::new();
        let mut circles = Vec::new();
        for (module, far) in reached.iter().filter(|(module, far)| far.contains(**module)) {
            let group: Vec<_> =
                far.iter().filter(|other| reached[*other].contains(*module)).collect();
            if group.iter().all(|other| seen.insert(*other)) {
                let name =
                    |module: &&&Vec<String>| self.modules[**module].name.display().to_string();
                circles.push(group.iter().map(name).collect());
            }
        }
        circles
    }

    fn imports(&self, module: &Vec<String>) -> BTreeSet<Vec<String>> {
        let file = self.modules[module];
        let exported: Vec<_> = uses(&file.code)
            .filter(|(_, is_export, _)| *is_export)
            .map(|(at, _, item)| at..at + item.len() + "use ".len())
            .collect();
        // A module that a `use` takes whole leads to its items by its last name.
        let aliases: BTreeMap<_, _> = uses(&file.code)
            .map(|(_, _, item)| absolute(segments(&item), module))
            .filter(|path| self.modules.contains_key(path))
            .filter_map(|path| Some((path.last()?.clone(), path)))
            .collect();
        paths(&file.code)
            .filter(|(at, _)| {
                !file.is_test(*at) && !exported.iter().any(|range| range.contains(at))
            })
            .filter_map(|(_, path)| {
                let path = match aliases.get(&path[0]) {
                    Some(whole) => whole.iter().chain(&path[1..]).cloned().collect(),
                    None => absolute(path, module),
                };
                self.file_of(path, 0)
            })
            .filter(|target| target != module)
            .collect()
    }

    /// The module whose file declares the item at `path`.
    fn file_of(&self, path: Vec<String>, depth: usize) -> Option<Vec<String>> {
        let len = (0..=path.len()).rev().find(|len| self.modules.contains_key(&path[..*len]))?;
        let module = path[..len].to_vec();
        let exported = path.get(len).and_then(|name| self.exports.get(&module)?.get(name));
        match exported {
            Some(further) if depth < 8 => {
                let further = further.iter().chain(&path[len + 1..]).cloned().collect();
                self.file_of(further, depth + 1)
            }
            // A path that ends at a module imports nothing yet: what is taken from it says so itself.
            _ if len == path.len() || len == 0 => None,
            _ => Some(module),
        }
    }
}

fn reach<'a>(
    from: &'a Vec<String>,
    edges: &'a BTreeMap<&Vec<String>, BTreeSet<Vec<String>>>,
) -> BTreeSet<&'a Vec<String>> {
    let mut reached = BTreeSet::new();
    let mut next: Vec<_> = edges[from].iter().collect();
    while let Some(module) = next.pop() {
        if reached.insert(module) {
            next.extend(&edges[module]);
        }
    }
    reached
}

fn module_of(name: &Path) -> Vec<String> {
    let whole = name.with_extension("");
    let mut module: Vec<_> =
        whole.components().map(|part| part.as_os_str().to_string_lossy().into_owned()).collect();
    if matches!(module.last().map(String::as_str), Some("mod" | "lib" | "main")) {
        module.pop();
    }
    module
}

/// A path from the root of the crate; one that begins with neither `crate`, `self` nor `super`
/// begins at a child of the module, or leads nowhere.
fn absolute(path: Vec<String>, module: &[String]) -> Vec<String> {
    let mut base = module.to_vec();
    let mut rest = path.as_slice();
    if rest.first().is_some_and(|head| head == "crate") {
        base.clear();
        rest = &rest[1..];
    }
    while let Some(head) = rest.first().filter(|head| matches!(head.as_str(), "self" | "super")) {
        if head == "super" {
            base.pop();
        }
        rest = &rest[1..];
    }
    base.extend_from_slice(rest);
    base
}

/// Every `use` with its place, whether it re-exports, and its path.
fn uses(code: &str) -> impl Iterator<Item = (usize, bool, String)> {
    words(code).filter(|(_, word)| *word == "use").map(|(at, _)| {
        let before = code[..at].trim_end();
        let is_export = before.ends_with("pub")
            || before.ends_with(')') && {
                before.rfind('(').is_some_and(|open| before[..open].trim_end().ends_with("pub"))
            };
        let item = code[at + "use".len()..].split(';').next().unwrap_or("").trim();
        (at, is_export, item.to_owned())
    })
}

/// Every path of two segments or more.
fn paths(code: &str) -> impl Iterator<Item = (usize, Vec<String>)> {
    words(code).filter_map(|(at, word)| {
        let path = segments(&code[at..]);
        let starts = !code[..at].trim_end().ends_with("::");
        (starts && path.len() > 1 && path[0] == word).then_some((at, path))
    })
}

fn segments(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut rest = text.trim_start();
    loop {
        let len = rest.find(|letter| !is_word(letter)).unwrap_or(rest.len());
        if len == 0 {
            return found;
        }
        found.push(rest[..len].to_owned());
        let Some(further) = rest[len..].trim_start().strip_prefix("::") else { return found };
        rest = further.trim_start();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn circles(texts: &[(&str, &str)]) -> Vec<Vec<String>> {
        let files: Vec<_> =
            texts.iter().map(|(name, text)| File::new(Path::new(name), text)).collect();
        Crate::new(Path::new("src"), &files).circles()
    }

    #[test]
    fn each_way_to_import_closes_a_circle() {
        let b = ("src/x/b.rs", "use crate::x::a::A;\npub struct B(A);\n");
        for a in [
            "use crate::x::b::B;\npub struct A(B);\n",
            "use crate::x::b;\npub struct A(b::B);\n",
            "use super::b::B;\npub struct A(B);\n",
            "use crate::x::B;\npub struct A(B);\n",
            "pub struct A(crate::x::Renamed);\n",
        ] {
            let exports = "mod a;\nmod b;\npub use b::B;\npub(crate) use b::B as Renamed;\n";
            let found = circles(&[("src/x/mod.rs", exports), ("src/x/a.rs", a), b]);
            assert_eq!(found, [["src/x/a.rs", "src/x/b.rs"]], "{a}");
        }
    }

    #[test]
    fn tests_and_re_exports_close_none() {
        let b = ("src/x/b.rs", "use crate::x::a::A;\npub struct B(A);\n");
        let a = "#[cfg(test)]\nmod tests {\n    use crate::x::b::B;\n}\npub struct A;\n";
        let exports = "mod a;\nmod b;\npub use a::A;\npub use b::B;\n";
        let found = circles(&[("src/x/mod.rs", exports), ("src/x/a.rs", a), b]);
        assert!(found.is_empty(), "{found:?}");
    }
}
