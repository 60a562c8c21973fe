//! Bodies arrive byte for byte as they were sent, by DATA and by BDAT.

use crate::relay::rig::BARE;
use crate::relay::rig::FULL;
use crate::relay::rig::Faults;
use crate::relay::rig::PIPED;
use crate::relay::rig::Rig;
use crate::relay::rig::queue_text;
use crate::support::PATIENCE;

/// Name, body, and whether it contains 8-bit bytes.
fn bodies() -> Vec<(&'static str, Vec<u8>)> {
    let line = |bytes: usize| [&b"x".repeat(bytes)[..], b"\r\n"].concat();
    let header = b"Subject: x\r\n\r\n";
    let with = |body: &[u8]| [&header[..], body].concat();
    let mut random: u32 = 7;
    let mut noise = Vec::new();
    while noise.len() < 1 << 20 {
        random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        // Mostly dots and line ends; the rest is 8-bit.
        match random >> 28 {
            0..=2 => noise.extend_from_slice(b"\r\n."),
            3 => noise.extend_from_slice(b"\r\n"),
            4 => noise.push(b'.'),
            _ => noise.push(0x80 | (random >> 16) as u8),
        }
    }
    // No line is longer than 998 octets.
    noise.extend_from_slice(b"\r\n");
    vec![
        ("empty", Vec::new()),
        ("a header", header.to_vec()),
        ("dots", with(b".\r\n..\r\n...\r\n.x\r\n x.\r\n.\r\n")),
        ("only dots", b".\r\n.\r\n..\r\n".to_vec()),
        ("longest lines", with(&line(998).repeat(40))),
        ("8-bit", with("Gr\u{fc}\u{df}e, \u{1f4ee}\r\n".as_bytes())),
        ("all bytes of 8 bits", with(&[&(0x80..=0xff).collect::<Vec<u8>>()[..], b"\r\n"].concat())),
        ("1 MB of lines", with(&line(70).repeat(14_600))),
        ("1 MB of dots", with(&b".....\r\n".repeat(150_000))),
        ("1 MB of noise", with(&noise)),
        ("no line end", with(b"the last line")),
        ("a dot, no line end", with(b"\r\n.")),
        ("long, no line end", with(&b"abc\r\n".repeat(30_000)[..149_998])),
    ]
}

#[test]
fn bodies_arrive_byte_for_byte() {
    let plans: Vec<_> = [("full", FULL), ("piped", PIPED), ("bare", BARE)]
        .map(|(name, offers)| (name.to_owned(), offers, Vec::new()))
        .into();
    let rig = Rig::start(&plans);
    let bodies = bodies();
    let mut client = rig.client();
    for (number, (name, body)) in bodies.iter().enumerate() {
        let id = format!("b{number}");
        client.expect(&format!("MAIL FROM:<{id}@sender.test> BODY=8BITMIME"), 250);
        for destination in &rig.destinations {
            client.expect(&format!("RCPT TO:<x@{}>", destination.domain), 250);
        }
        client.send(format!("BDAT {} LAST\r\n", body.len()).as_bytes()).expect("the peer listens");
        client.send(body).expect("the peer listens");
        let reply = client.reply().expect("the server answers");
        assert_eq!(reply.code, 250, "{name}: {}", reply.text);
    }
    let all = |count: usize| {
        rig.destinations.iter().all(|one| one.receiver.record().taken.len() >= count)
    };
    rig.settle(PATIENCE, || all(bodies.len()));
    let mut faults = Faults::default();
    for destination in &rig.destinations {
        let record = destination.receiver.record();
        for (number, (name, body)) in bodies.iter().enumerate() {
            let id = format!("b{number}");
            let arrived: Vec<_> = record.taken.iter().filter(|taken| taken.id == id).collect();
            faults.check(arrived.len() == 1, &destination.name, || {
                format!("{name}: {} times", arrived.len())
            });
            let mut expected = body.clone();
            // DATA cannot transfer a last line without a line end.
            if destination.name != "full" && !body.is_empty() && !body.ends_with(b"\r\n") {
                expected.extend_from_slice(b"\r\n");
            }
            for taken in arrived {
                let trace = taken.body.len().checked_sub(expected.len());
                let is_whole = trace.is_some_and(|trace| {
                    taken.body[trace..] == expected && is_trace(&taken.body[..trace])
                });
                faults.check(is_whole, &destination.name, || {
                    format!("{name}: {} bytes of {}", taken.body.len(), expected.len())
                });
            }
        }
    }
    faults.check(rig.told().is_empty(), "reports", || format!("{:?}", rig.told()));
    let left = queue_text(&rig.server);
    faults.check(left.is_empty(), "queue", || left.clone());
    faults.none_or_panic(&rig.server);
}

/// The prefix added by the server: one Received field with its continuation lines.
fn is_trace(text: &[u8]) -> bool {
    let text = String::from_utf8_lossy(text);
    let mut lines = text.split_inclusive("\r\n");
    lines.next().is_some_and(|line| line.starts_with("Received: "))
        && lines.all(|line| line.starts_with([' ', '\t']) && line.ends_with("\r\n"))
}
