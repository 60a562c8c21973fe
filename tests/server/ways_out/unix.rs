//! LMTP over a Unix socket.

use std::io::BufRead;
use std::io::BufReader;
use std::io::Write;
use std::os::unix::net::UnixListener;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::Mutex;
use std::thread;

use crate::ways_out::kit::Out;
use crate::ways_out::kit::outcome;
use crate::ways_out::kit::reply;
use crate::ways_out::kit::route;

/// The reply to the body for each recipient, by its local part.
fn verdict(rcpt: &str) -> &'static str {
    match rcpt {
        _ if rcpt.contains("<full@") => "452 4.2.2 mailbox full",
        _ if rcpt.contains("<gone@") => "550 5.1.1 no such user",
        _ => "250 2.1.5 delivered",
    }
}

/// A mail store that records everything.
fn serve(path: &Path) -> Arc<Mutex<Vec<String>>> {
    let listener = UnixListener::bind(path).expect("the folder is writable");
    let heard: Arc<Mutex<Vec<String>>> = Arc::default();
    let kept = Arc::clone(&heard);
    thread::spawn(move || {
        for stream in listener.incoming() {
            // The client may close in the middle.
            let _ = converse(stream.expect("accepted"), &kept);
        }
    });
    heard
}

fn converse(mut stream: UnixStream, heard: &Mutex<Vec<String>>) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    stream.write_all(b"220 store.test LMTP\r\n")?;
    let (mut rcpts, mut in_body) = (Vec::new(), false);
    while let Some(line) = lines.next().transpose()? {
        heard.lock().expect("no panics").push(line.clone());
        let said = match &*line {
            "." if in_body => {
                in_body = false;
                let said: Vec<&str> = rcpts.drain(..).map(|rcpt: String| verdict(&rcpt)).collect();
                said.join("\r\n")
            }
            _ if in_body => continue,
            "DATA" => {
                in_body = true;
                "354 go".to_owned()
            }
            "QUIT" => "221 bye".to_owned(),
            _ if line.starts_with("LHLO") => "250-store.test\r\n250 PIPELINING".to_owned(),
            _ => {
                if line.starts_with("RCPT") {
                    rcpts.push(line.clone());
                }
                "250 2.0.0 ok".to_owned()
            }
        };
        stream.write_all(format!("{said}\r\n").as_bytes())?;
    }
    Ok(())
}

#[test]
fn each_recipient_gets_its_own_reply() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("lmtp");
    let heard = serve(&path);
    let shown = format!("unix:{}", path.display());
    let out = Out::start("2s", "", &route("store.test", &format!("lmtp:{shown}")));
    let to = ["good@store.test", "full@store.test", "gone@store.test"];
    out.submit(&to);
    let rows = [
        ("good", "delivered", "250 2.1.5 delivered"),
        ("full", "deferred", "452 4.2.2 mailbox full"),
        ("gone", "bounced", "550 5.1.1 no such user"),
    ];
    for (who, end, words) in rows {
        let attempt = out.attempt(&format!("{who}@store.test"));
        assert_eq!((outcome(&attempt), reply(&attempt)), (end, words), "{attempt}");
        assert_eq!(attempt["host"], shown, "{attempt}");
        assert!(attempt["address"].is_null(), "{attempt}");
    }
    let heard = heard.lock().expect("no panics");
    let count = |start: &str| heard.iter().filter(|line| line.starts_with(start)).count();
    assert_eq!((count("LHLO"), count("MAIL"), count("RCPT"), count(".")), (1, 1, 3, 1));
}

#[test]
fn an_unusable_socket_is_reported_with_the_remedy() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = |name: &str| folder.path().join(name).display().to_string();
    // A socket without a listener, and a regular file.
    drop(UnixListener::bind(path("stale")).expect("the folder is writable"));
    std::fs::write(path("file"), "").expect("the folder is writable");
    let rows = [
        ("missing", "no such file; start the LMTP server, or correct the path in the route"),
        (
            "stale",
            "connection refused; the file exists, but nothing listens: start the LMTP server",
        ),
        ("file", "connection refused; the file exists, but nothing listens: start the LMTP server"),
    ];
    let routes =
        rows.map(|(name, _)| route(&format!("{name}.test"), &format!("lmtp:unix:{}", path(name))));
    let out = Out::start("2s", "", &routes.concat());
    for (name, words) in rows {
        let to = format!("x@{name}.test");
        out.submit(&[&to]);
        let attempt = out.attempt(&to);
        let expected = format!("connecting to unix:{}: {words}", path(name));
        assert_eq!((outcome(&attempt), reply(&attempt)), ("deferred", &*expected), "{attempt}");
    }
}

/// Mail for a store that is down arrives once it is up: the first failure is temporary.
#[test]
fn mail_waits_for_a_store_that_is_down() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("lmtp");
    let next = format!("lmtp:unix:{}", path.display());
    let setup = route("store.test", &next)
        .replace("[[route]]", "back_off_first = '200ms'\nback_off_max = '200ms'\n[[route]]");
    let out = Out::start("2s", "retry_schedule = ['1s']", &setup);
    out.submit(&["good@store.test"]);
    assert_eq!(outcome(&out.attempt("good@store.test")), "deferred");
    let _heard = serve(&path);
    out.server.wait_for_log("250 2.1.5 delivered");
}
