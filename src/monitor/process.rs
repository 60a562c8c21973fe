//! The standard process metrics of Prometheus, read from `/proc` when they are asked for.
//!
//! Promise:  a value that the kernel does not tell is left out.

use std::fs;
use std::time::Duration;

use crate::base::clock::wall_ms;
use crate::observe::exposition::Exposition;
use crate::observe::metric::Kind;

/// Linux counts processor time in hundredths of a second on every architecture that we run on.
const TICKS_PER_SECOND: f64 = 100.0;

/// Adds the metrics of this process, which has run for `uptime`.
pub fn expose(page: &mut Exposition, uptime: Duration) {
    let start = wall_ms() as f64 / 1000.0 - uptime.as_secs_f64();
    let rows = [
        ("start_time_seconds", "Start time of the process since 1970.", Some(start.round())),
        ("resident_memory_bytes", "Resident memory.", memory_bytes("VmRSS:")),
        ("virtual_memory_bytes", "Virtual memory.", memory_bytes("VmSize:")),
        ("open_fds", "Open file descriptors.", open_descriptors()),
        ("max_fds", "Limit of open file descriptors.", descriptors_max()),
        ("cpu_seconds_total", "Processor time, user and system.", cpu_seconds()),
    ];
    for (name, help, value) in rows {
        if let Some(value) = value {
            let kind = if name.ends_with("_total") { Kind::Counter } else { Kind::Gauge };
            page.metric(&format!("process_{name}"), kind, help).sample(&[], value);
        }
    }
}

fn memory_bytes(key: &str) -> Option<f64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(key))?;
    let kilobytes: f64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes * 1024.0)
}

fn open_descriptors() -> Option<f64> {
    // One of the entries is the directory that is being read.
    fs::read_dir("/proc/self/fd").ok().map(|entries| entries.count().saturating_sub(1) as f64)
}

fn descriptors_max() -> Option<f64> {
    let limits = fs::read_to_string("/proc/self/limits").ok()?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Fields 14 and 15 of `stat` (proc(5)). They are counted from behind the name in parentheses, which
/// may contain spaces.
fn cpu_seconds() -> Option<f64> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    let (_, behind_name) = stat.rsplit_once(") ")?;
    let mut fields = behind_name.split(' ').skip(11);
    let user: f64 = fields.next()?.parse().ok()?;
    let system: f64 = fields.next()?.parse().ok()?;
    Some((user + system) / TICKS_PER_SECOND)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_standard_metrics_are_known_here() {
        let mut page = Exposition::default();
        expose(&mut page, Duration::from_secs(5));
        let text = page.into_text();
        let value = |name: &str| -> f64 {
            let start = format!("process_{name} ");
            let found = text.lines().find_map(|line| line.strip_prefix(&start));
            found.expect(name).parse().expect("a number")
        };
        assert!(value("resident_memory_bytes") > 1e6);
        assert!(value("virtual_memory_bytes") >= value("resident_memory_bytes"));
        assert!(value("max_fds") >= value("open_fds") && value("open_fds") >= 3.0);
        assert!(value("cpu_seconds_total") >= 0.0 && value("start_time_seconds") > 1e9);
    }
}
