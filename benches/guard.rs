//! The regression guard: counts the instructions of the hottest paths and compares with a record.
//!
//! ```text
//! make guard              compares with benches/guard.toml; fails outside the tolerance, up or down
//! make guard RECORD=1     writes the new counts to the file
//! ```
//!
//! Times on a shared machine differ by tens of percent, instruction counts by less than one: they do not
//! depend on the clock, other processes or caches. A count shows additional work that a benchmark cannot
//! distinguish from noise; it does not show additional cache misses.
//!
//! Each path runs under callgrind in its own process: setup, a few runs as a warm-up (lazy binding,
//! growing buffers), then `TURNS` counted runs. Only calls from `guard_measured` are counted. The seed of
//! the hash maps is random and changes the length of searches.
//!
//! Counts depend on the compiler, which the record names, and on the CPU: memchr and the C library select
//! code by CPU features. Valgrind supports nothing beyond AVX2, so that all machines with AVX2 run the
//! same code. A machine without AVX2 is not compared.

use std::fmt::Write;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::ExitCode;

use toml_edit::DocumentMut;
use toml_edit::Item;
use toml_edit::Table;
use toml_edit::value;

mod paths;
#[path = "../tests/queue_rig/mod.rs"]
mod queue_rig;

/// Turns that are counted, and turned before.
const TURNS: u64 = 20;
const WARM_UP: u64 = 5;

/// What has changed by more is work. Less may be the optimizer, which weighs anew what to inline.
const TOLERANCE_PERCENT: f64 = 5.0;

const HEAD: &str = "\
# Instructions of one turn of each path of `benches/paths`, written by `make guard RECORD=1`.
# Commit it with the change that explains it.
";

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let done = match words[..] {
        ["turn", name] => turn(name),
        ["check"] => check(),
        ["record"] => record(),
        // `cargo bench` without more is about time.
        _ => {
            println!("guard: counts instructions; run it by `make guard`");
            Ok(())
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(fault) => {
            eprintln!("guard: {fault}");
            ExitCode::FAILURE
        }
    }
}

/// What callgrind collects in. Its name is asked for by `--toggle-collect`.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn guard_measured(path: &mut paths::Path) -> u64 {
    (0..TURNS).map(|_| path()).fold(0, u64::wrapping_add)
}

/// Runs one path, under callgrind or not.
fn turn(name: &str) -> Result<(), String> {
    let known = paths::GUARDED.iter().find(|(known, _)| *known == name);
    let (_, make) = known.ok_or_else(|| format!("there is no path {name:?}"))?;
    let mut path = make();
    for _ in 0..WARM_UP {
        std::hint::black_box(path());
    }
    std::hint::black_box(guard_measured(&mut path));
    Ok(())
}

/// Instructions of one turn of a path.
fn count(name: &str) -> Result<u64, String> {
    let folder = tempfile::tempdir().map_err(|fault| format!("no folder for a count: {fault}"))?;
    let counts = folder.path().join("counts");
    let own = std::env::current_exe().map_err(|fault| format!("this program: {fault}"))?;
    let mut out_file = std::ffi::OsString::from("--callgrind-out-file=");
    out_file.push(&counts);
    let run = Command::new("valgrind")
        .args(["--tool=callgrind", "--toggle-collect=guard_measured"])
        .arg(out_file)
        .arg(own)
        .args(["turn", name])
        .output()
        .map_err(|fault| format!("valgrind: {fault} (apt-get install valgrind)"))?;
    if !run.status.success() {
        return Err(format!("{name}: {}\n{}", run.status, String::from_utf8_lossy(&run.stderr)));
    }
    let text = std::fs::read_to_string(&counts).map_err(|fault| format!("{name}: {fault}"))?;
    let total = text.lines().find_map(|line| line.strip_prefix("totals: "));
    match total.and_then(|total| total.trim().parse::<u64>().ok()) {
        Some(total) if total >= TURNS => Ok(total / TURNS),
        _ => Err(format!("{name}: callgrind has collected nothing; is the binary stripped?")),
    }
}

fn check() -> Result<(), String> {
    let record = read_record()?;
    if record["cpu"].as_str() != Some(cpu()) {
        println!(
            "guard: this CPU is {}, the counts are of {}; NOT compared",
            cpu(),
            record["cpu"].as_str().unwrap_or("an unknown one"),
        );
        return Ok(());
    }
    let mut faults = String::new();
    println!("{:<12} {:>12} {:>12} {:>8}", "path", "expected", "found", "change");
    for (name, _) in paths::GUARDED {
        let expected = record["instructions"].get(name).and_then(|count| count.as_integer());
        let found = count(name)?;
        let Some(expected) = expected.filter(|expected| *expected > 0) else {
            let _ = writeln!(faults, "guard: {name} has no count yet; found {found}");
            continue;
        };
        let percent = (found as f64 / expected as f64 - 1.0) * 100.0;
        println!("{name:<12} {expected:>12} {found:>12} {percent:>+7.2}%");
        if percent.abs() > TOLERANCE_PERCENT {
            let _ = writeln!(
                faults,
                "guard: {name}: expected {expected} instructions, found {found} ({percent:+.1} %)"
            );
        }
    }
    if faults.is_empty() {
        return Ok(());
    }
    let recorded = record["rustc"].as_str().unwrap_or("an unknown compiler");
    Err(format!(
        "counts moved by more than {TOLERANCE_PERCENT} %\n{faults}\
         If it is meant, or the compiler has changed (recorded with {recorded}, this is {}),\n\
         write them anew by `make guard RECORD=1` and commit benches/guard.toml with the reason.",
        rustc()
    ))
}

fn record() -> Result<(), String> {
    let mut record = DocumentMut::new();
    record["cpu"] = value(cpu());
    record["rustc"] = value(rustc());
    let mut instructions = Table::new();
    for (name, _) in paths::GUARDED {
        let found = count(name)?;
        println!("{name:<12} {found:>12}");
        instructions[name] = value(found as i64);
    }
    record["instructions"] = Item::Table(instructions);
    let path = record_path();
    std::fs::write(&path, format!("{HEAD}\n{record}"))
        .map_err(|fault| format!("{}: {fault}", path.display()))
}

fn read_record() -> Result<DocumentMut, String> {
    let path = record_path();
    let told = |fault: &dyn std::fmt::Display| format!("{}: {fault}", path.display());
    let text = std::fs::read_to_string(&path).map_err(|fault| told(&fault))?;
    let record: DocumentMut = text.parse().map_err(|fault| told(&fault))?;
    match record.contains_key("cpu") && record.contains_key("instructions") {
        true => Ok(record),
        false => Err(told(&"has no `cpu` or no `instructions`; make guard RECORD=1")),
    }
}

fn record_path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/guard.toml")
}

/// What of the CPU decides which code runs.
fn cpu() -> &'static str {
    #[cfg(target_arch = "x86_64")]
    let has_avx2 = std::arch::is_x86_feature_detected!("avx2");
    #[cfg(not(target_arch = "x86_64"))]
    let has_avx2 = false;
    match has_avx2 {
        true => "x86_64 with AVX2",
        false => std::env::consts::ARCH,
    }
}

/// The compiler of the path, by its own words.
fn rustc() -> String {
    let told = Command::new("rustc").arg("--version").output();
    let text = told.map(|told| String::from_utf8_lossy(&told.stdout).trim().to_owned());
    text.unwrap_or_else(|_| "an unknown compiler".to_owned())
}
