//! The container: the Dockerfile, the Makefile and the configs agree; the server reports a seccomp
//! filter that refuses io_uring; the table at the end of `make bench` is correct.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::process::Output;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

fn text(name: &str) -> String {
    fs::read_to_string(Path::new(ROOT).join(name)).expect("the file is in the tree")
}

/// The instructions of the Dockerfile, each on one line.
fn instructions() -> Vec<String> {
    let text = text("Dockerfile").replace("\\\n", " ");
    text.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect()
}

#[test]
fn the_image_contains_the_output_of_make_release() {
    let instructions = instructions();
    let made = instructions.iter().any(|line| line.starts_with("RUN make release "));
    let profile = text("Makefile").contains("$(CARGO) build --profile dist $(CARGO_FLAGS)");
    assert!(made && profile, "the builder runs `make release`, which uses profile dist");
    for binary in ["ringpost", "ringpost-load"] {
        let copied =
            format!("COPY --from=builder /src/target/dist/{binary} /usr/local/bin/{binary}");
        assert!(instructions.contains(&copied), "{binary} is not copied from the build folder");
    }
    let last = instructions.iter().rfind(|line| line.starts_with("FROM ")).expect("stages");
    assert!(last.ends_with(" AS ringpost"), "the default target is the server: {last}");
    for line in &instructions {
        let Some(sources) = line.strip_prefix("COPY tuning/") else { continue };
        let source = sources.split(' ').next().expect("a name");
        assert!(Path::new(ROOT).join("tuning").join(source).exists(), "{line}");
    }
}

#[test]
fn the_image_exposes_the_ports_of_its_config() {
    let config = text("tuning/container.toml");
    let config: Vec<&str> = config.lines().filter(|line| !line.starts_with('#')).collect();
    let mut configured: Vec<u16> = config
        .iter()
        .flat_map(|line| line.split('"'))
        .filter_map(|word| word.strip_prefix("0.0.0.0:")?.parse().ok())
        .collect();
    configured.sort_unstable();
    let instructions = instructions();
    let exposed = instructions.iter().find_map(|line| line.strip_prefix("EXPOSE "));
    let exposed: Vec<u16> =
        exposed.expect("EXPOSE").split(' ').map(|port| port.parse().expect("a port")).collect();
    assert_eq!(exposed, configured);
    let user = instructions.iter().rfind(|line| line.starts_with("USER "));
    assert_eq!(user.map(String::as_str), Some("USER 2525:2525"), "the server does not run as root");
    let stop = instructions.iter().find_map(|line| line.strip_prefix("STOPSIGNAL "));
    assert_eq!(stop, Some("SIGTERM"), "SIGTERM drains the server");
}

#[test]
fn the_configs_of_the_containers_are_valid() {
    for name in ["tuning/container.toml", "loadtest/compose.toml"] {
        let checked = ringpost(&["check", "--config", name]).output().expect("the process runs");
        assert!(checked.status.success(), "{name}: {}", said(&checked));
    }
}

/// Engines write their profiles in two ways: Docker's refuses by default; Podman's has a rule that
/// refuses, next to which a second rule for the same call is not allowed.
#[test]
fn the_generated_profile_has_one_rule_per_call() {
    let folder = tempfile::tempdir().expect("a folder");
    let docker = r#"{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [
        {"names": ["read"], "action": "SCMP_ACT_ALLOW"},
        {"names": ["mbind", "set_mempolicy"], "action": "SCMP_ACT_ALLOW",
         "includes": {"caps": ["CAP_SYS_NICE"]}}]}"#;
    let podman = r#"{"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 38, "syscalls": [
        {"names": ["read"], "action": "SCMP_ACT_ALLOW", "args": []},
        {"names": ["set_mempolicy"], "action": "SCMP_ACT_ALLOW",
         "includes": {"caps": ["CAP_SYS_NICE"]}},
        {"names": ["set_mempolicy", "mbind"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1,
         "excludes": {"caps": ["CAP_SYS_NICE"]}}]}"#;
    for (engine, profile) in [("docker", docker), ("podman", podman)] {
        let path = folder.path().join(engine);
        fs::write(&path, profile).expect("the folder is writable");
        let made = Command::new(Path::new(ROOT).join("tuning/seccomp")).arg(&path).output();
        let made = made.expect("python3 is here");
        assert!(made.status.success(), "{engine}: {}", said(&made));
        let profile: serde_json::Value = serde_json::from_slice(&made.stdout).expect("JSON");
        let rules = profile["syscalls"].as_array().expect("the profile has a list of rules");
        let rules_of = |call: &str| {
            let names = |rule: &&serde_json::Value| {
                rule["names"].as_array().is_some_and(|names| names.iter().any(|name| name == call))
            };
            rules.iter().filter(names).map(|rule| rule["action"].clone()).collect::<Vec<_>>()
        };
        for call in ["io_uring_setup", "io_uring_enter", "io_uring_register", "set_mempolicy"] {
            assert_eq!(rules_of(call), ["SCMP_ACT_ALLOW"], "{engine}: {call}");
        }
        assert_eq!(rules_of("read").len(), 1, "{engine}: other rules are kept");
        assert_eq!(rules_of("mbind").len(), 1, "{engine}: other calls of a changed rule are kept");
    }
}

/// The next run parses the printed figures as the record.
#[test]
fn every_figure_of_a_bench_is_printed_in_digits() {
    let folder = tempfile::tempdir().expect("a folder");
    for (name, nanos) in [("a", 999.6), ("b", 12.34), ("c", 1_000_000.4), ("d", 999_700.0)] {
        let new = folder.path().join("criterion").join(name).join("new");
        fs::create_dir_all(&new).expect("the folder is writable");
        let put = |file: &str, text: String| fs::write(new.join(file), text).expect("likewise");
        put("estimates.json", format!("{{\"median\": {{\"point_estimate\": {nanos}}}}}"));
        put("benchmark.json", format!("{{\"full_id\": \"{name}\"}}"));
    }
    let told = Command::new(Path::new(ROOT).join("benches/summary")).arg(folder.path()).output();
    let told = said(&told.expect("python3 is here"));
    let figures: Vec<&str> = told.lines().filter_map(|line| line.get(6..16)).take(5).collect();
    let expected = ["  measured", "   1000 ns", "   12.3 ns", "      1 ms", "   1000 us"];
    assert_eq!(figures, expected, "{told}");
}

/// Docker returns EPERM, Podman ENOSYS. The message names the cause and the remedy.
#[test]
fn a_filter_that_refuses_io_uring_is_reported() {
    for (engine, errno) in [("docker", libc::EPERM), ("podman", libc::ENOSYS)] {
        let folder = tempfile::tempdir().expect("a folder");
        let config = folder.path().join("ringpost.toml");
        let spool = folder.path().join("spool");
        let text = format!(
            "[server]\nspool = {spool:?}\n[[listener]]\naddress = \"127.0.0.1:0\"\n\
             [monitor]\nlisten = \"off\"\n[delivery]\nenabled = false\n"
        );
        fs::write(&config, text).expect("the folder is writable");
        let mut serve = ringpost(&["serve", "--config"]);
        serve.arg(&config);
        // SAFETY: the closure runs in the child between fork and exec, and makes two system calls
        // with data built before; it takes no lock and allocates no memory.
        unsafe { serve.pre_exec(refusing_io_uring(errno)) };
        let ended = serve.output().expect("the process runs");
        let said = said(&ended);
        assert_eq!(ended.status.code(), Some(1), "{engine}: {said}");
        for word in ["io_uring is forbidden by the container's seccomp filter", "tuning/seccomp"] {
            assert!(said.contains(word), "{engine}: {word:?} is not in {said}");
        }
        assert!(!said.contains("panicked"), "{engine}: {said}");
        assert!(!spool.exists(), "{engine}: a server that cannot run creates no spool");
    }
}

/// Installs a seccomp filter in the calling process that answers io_uring_setup with `errno` and
/// allows all other calls.
fn refusing_io_uring(errno: i32) -> impl FnMut() -> std::io::Result<()> {
    let step =
        |code: u32, jt: u8, jf: u8, k: u32| libc::sock_filter { code: code as u16, jt, jf, k };
    // The number of the call is the first word that a filter sees. The architecture is not checked,
    // because only this binary runs under the filter.
    let mut steps = [
        step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, libc::SYS_io_uring_setup as u32),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ERRNO | errno as u32),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    move || {
        let filter = libc::sock_fprog { len: steps.len() as u16, filter: steps.as_mut_ptr() };
        // SAFETY: both calls only read their arguments; `filter` and its instructions outlive them.
        let refused = unsafe {
            libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0
                || libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &filter) != 0
        };
        if refused { Err(std::io::Error::last_os_error()) } else { Ok(()) }
    }
}

fn ringpost(words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringpost"));
    command.args(words).current_dir(ROOT);
    command
}

fn said(output: &Output) -> String {
    let [out, err] = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes));
    format!("{out}{err}")
}
