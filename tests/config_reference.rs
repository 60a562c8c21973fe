//! The manual in `docs/` is what the binary prints, and the sample file means what it says.
//!
//! `RINGPOST_WRITE_DOCS=1 cargo test --release --test config_reference` writes both pages anew.

use std::fs;
use std::path::Path;

use ringpost::config;
use ringpost::config::HostFacts;
use ringpost::config::model::SECTIONS;

fn host() -> HostFacts {
    HostFacts { hostname: "mail.example.com".to_owned(), ports_from: 1024, ..HostFacts::default() }
}

#[test]
fn the_pages_are_up_to_date() {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs");
    for (name, made) in
        [("config-reference.md", config::reference()), ("ringpost.sample.toml", config::sample())]
    {
        let page = docs.join(name);
        if std::env::var_os("RINGPOST_WRITE_DOCS").is_some() {
            fs::write(&page, &made).expect("the page can be written");
        }
        let kept = fs::read_to_string(&page).unwrap_or_default();
        assert!(kept == made, "docs/{name} is out of date: run with RINGPOST_WRITE_DOCS=1");
    }
}

#[test]
fn the_sample_means_the_defaults() {
    let loaded = config::load(&config::sample(), "sample", &host()).expect("the sample is good");
    assert_eq!(loaded.config, config::embedded(&host()));
    assert_eq!(loaded.warnings, []);
}

/// With its keys uncommented the sample says the defaults in full; only examples are left out, and
/// sections of which there is none by default.
#[test]
fn each_default_of_the_sample_is_true() {
    let mut text = String::new();
    let mut example = false;
    let mut optional = false;
    let (mut keys, mut examples, mut left_out) = (0, 0, 0);
    for line in config::sample().lines() {
        match line.strip_prefix('#') {
            Some(comment) if comment.is_empty() || comment.starts_with(' ') => {
                example |= comment.contains("Example:");
            }
            Some(header) if header.starts_with("[[") => optional = true,
            Some(_) if optional => {
                example = false;
                left_out += 1;
            }
            Some(_) if example => {
                example = false;
                examples += 1;
            }
            Some(key) => {
                text.push_str(key);
                keys += 1;
            }
            None => {
                optional &= !line.starts_with('[');
                text.push_str(line);
            }
        }
        text.push('\n');
    }
    let declared: usize = SECTIONS.iter().map(|section| section.keys.len()).sum();
    assert_eq!(keys + examples + left_out, declared, "the sample holds every key");
    assert!(examples < 10, "{examples} keys have no default");
    let loaded = config::load(&text, "sample", &host()).unwrap_or_else(|faults| {
        panic!("{}", faults.iter().map(|fault| format!("{fault}\n")).collect::<String>())
    });
    assert_eq!(loaded.config, config::embedded(&host()));
}
