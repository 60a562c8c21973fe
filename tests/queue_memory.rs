//! Memory while large bodies are streamed. One test, so that the process is its own.
//!
//! By default fewer bytes are sent than issue figures name, for memory is full long before;
//! `RINGPOST_TEST_FULL=1` sends 200 times 25 MB and once 1 GB.

mod queue_rig;

use std::fs;

use queue_rig::HEAD;
use queue_rig::NOW_MS;
use queue_rig::Rig;
use queue_rig::envelope;
use ringpost::base::Slice;
use ringpost::base::limits::CHUNK_BYTES;
use ringpost::queue::CommitFault;
use ringpost::queue::Recipients;
use ringpost::queue::SpoolOptions;

fn status(field: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(field)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
}

async fn stream(rig: &Rig, bytes: u64) -> Result<u64, CommitFault> {
    let line = b"Bytes that are not all alike, as those of a mail would not be, either.\r\n";
    let mut body = rig.committer.body(NOW_MS)?;
    while body.bytes() < bytes {
        let mut chunk = rig.pool.try_take().expect("the pool is large");
        while !chunk.is_full() {
            chunk.fill_from(line);
        }
        body.push(Slice::new(chunk, 0..CHUNK_BYTES)).await?;
    }
    Ok(body.finish(HEAD, &envelope(Recipients::default()), NOW_MS).await?.body.bytes)
}

/// How far the peak of resident memory rose above what there was before.
fn rise(work: impl FnOnce()) -> u64 {
    fs::write("/proc/self/clear_refs", "5").expect("the peak can be forgotten");
    let before = status("VmRSS:");
    work();
    status("VmHWM:").saturating_sub(before)
}

#[test]
fn streams_are_held_in_bounded_memory() {
    let full = std::env::var_os("RINGPOST_TEST_FULL").is_some();
    let (one, many) = if full { (1 << 30, 25 << 20) } else { (200 << 20, 3 << 20) };
    let folder = tempfile::tempdir().unwrap();
    let options = SpoolOptions {
        partitions: Some(2),
        ..SpoolOptions::new(folder.path().join("spool"), NOW_MS)
    };
    let rig = Rig::with(options);
    let alone = rise(|| {
        rig.run(stream(&rig, one)).unwrap();
    });
    println!("one body of {} MB: {} MB", one >> 20, alone >> 20);
    assert!(alone < 64 << 20, "one body raised memory by {} MB", alone >> 20);
    let crowd = rise(|| {
        let all = (0..200)
            .map(|_| Box::pin(stream(&rig, many)) as std::pin::Pin<Box<dyn Future<Output = _>>>);
        for done in rig.run_all::<Result<u64, CommitFault>>(all.collect()) {
            done.unwrap();
        }
    });
    println!("200 bodies of {} MB: {} MB", many >> 20, crowd >> 20);
    assert!(alone + crowd < 200 << 20, "200 bodies raised memory by {} MB", (alone + crowd) >> 20);
    assert_eq!(rig.pool.chunks_out(), 0);
}
