//! The manual in `docs/` is what the binary prints, and the sample file means what it says.
//!
//! `RINGPOST_WRITE_DOCS=1 cargo test --release --test parts -- config_reference` writes both pages anew.

use std::fs;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

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

/// `ringpost check` with a config and an environment: exit code, output, errors.
fn check(
    config: &Path,
    arguments: &[&str],
    environment: &[(&str, &str)],
) -> (bool, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_ringpost"))
        .arg("check")
        .args(arguments)
        .env("RINGPOST_CONFIG", config)
        .envs(environment.iter().copied())
        .output()
        .expect("the binary runs");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    (output.status.success(), text(output.stdout), text(output.stderr))
}

#[test]
fn a_check_shows_where_each_value_came_from() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = folder.path().join("ringpost.toml");
    let password = folder.path().join("relay");
    fs::write(&password, "secret\n").expect("the folder is writable");
    fs::set_permissions(&password, Permissions::from_mode(0o644)).expect("the file is ours");
    let text = "[server]\nhostname = \"file.test\"\nspool = \"/tmp/x\"\n[[route]]\n\
                next = \"smtps:relay.test\"\nauth_user = \"u\"\n\
                auth_password_file = \"credential:relay\"\n";
    fs::write(&config, text).expect("the folder is writable");
    let credentials = folder.path().to_str().expect("UTF-8");
    let environment =
        [("RINGPOST_SERVER_HOSTNAME", "env.test"), ("CREDENTIALS_DIRECTORY", credentials)];
    let (is_good, told, errors) = check(&config, &["--show-origin"], &environment);
    assert!(is_good, "{errors}");
    let place = config.display();
    for line in [
        "server.hostname = \"env.test\"  # environment: RINGPOST_SERVER_HOSTNAME".to_owned(),
        format!("server.spool = \"/tmp/x\"  # {place}:3"),
        "log.level = \"info\"  # default".to_owned(),
        format!(
            "route[1].auth_password_file = \"credential:relay\"  # {place}:7, credential relay"
        ),
    ] {
        assert!(told.lines().any(|one| one == line), "{line} is missing in\n{told}");
    }
    assert!(told.contains("every user of this machine can read the password"), "{told}");
    assert!(!told.contains("secret"), "{told}");
    let (_, told, _) = check(&config, &["--json"], &environment);
    let told: serde_json::Value = serde_json::from_str(&told).expect("JSON");
    let keys = told["keys"].as_array().expect("a list");
    let found = keys.iter().find(|key| key["key"] == "server.hostname").expect("it is listed");
    assert_eq!(found["origin"]["variable"], "RINGPOST_SERVER_HOSTNAME");
    let (is_good, _, errors) = check(&config, &[], &[("RINGPOST_SERVER_HOSTNMAE", "x.test")]);
    assert!(!is_good && errors.contains("did you mean RINGPOST_SERVER_HOSTNAME?"), "{errors}");
}
