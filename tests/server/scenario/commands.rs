//! The command line: check, config, queue.

use std::fs;
use std::process::Command;

use crate::scenario::kit::Plan;
use crate::scenario::kit::RINGPOST;
use crate::scenario::kit::Rig;
use crate::scenario::kit::id_of;
use crate::scenario::kit::new_folder;
use crate::scenario::kit::run;
use crate::scenario::kit::text;
use crate::scenario::kit::text_of;

#[test]
fn check_reports_all_faults_at_once() {
    let folder = new_folder();
    let file = folder.path().join("ringpost.toml");
    let rows: [(&str, &str, &[&str]); 5] = [
        ("good", "[limits]\nmessage_size = \"25MB\"\n", &[]),
        (
            "many",
            "[limits]\nmessage_sise = \"25MB\"\nrecipients_per_message = \"ten\"\n[timeouts]\ncommand = \"5 apples\"\n\
             [relay]\nnetworks = [\"10.0.0.0/33\"]\n[nonsense]\n",
            &[
                ":2: ",
                "message_sise",
                "message_size",
                ":3: ",
                "recipients_per_message",
                ":5: ",
                "5 apples",
                ":7: ",
                "10.0.0.0/33",
                ":8: ",
                "nonsense",
            ],
        ),
        ("no TOML", "[limits\nx\n", &[":1: "]),
        ("contradiction", "[[listener]]\ntls = \"none\"\ntls_required = true\n", &["tls_required"]),
        (
            "missing files",
            "[[tls.certificate]]\ncertificate = \"/no/where.crt\"\nkey = \"/no/where.key\"\n",
            &["/no/where.crt"],
        ),
    ];
    for (name, config, told) in rows {
        fs::write(&file, config).expect("the file is writable");
        let out = run(RINGPOST, &["check", "--config", text(&file)], b"");
        let said = text_of(&out);
        assert_eq!(out.status.success(), told.is_empty(), "{name}: {said}");
        for word in told {
            assert!(said.contains(word), "{name}: {word:?} is not in {said}");
        }
        if !told.is_empty() {
            let mut serve = Command::new(RINGPOST);
            serve.args(["serve", "--config", text(&file)]).current_dir(folder.path());
            let out = serve.output().expect("the binary can be run");
            assert_eq!(out.status.code(), Some(1), "{name}: serve starts: {}", text_of(&out));
        }
    }
    let out = run(RINGPOST, &["check", "--config", "/no/such/file.toml"], b"");
    assert!(
        !out.status.success() && text_of(&out).contains("/no/such/file.toml"),
        "{}",
        text_of(&out)
    );
    let out = run(RINGPOST, &["check"], b"");
    assert!(out.status.success(), "the embedded default is valid: {}", text_of(&out));
}

#[test]
fn the_sample_and_the_reference_are_printed() {
    let folder = new_folder();
    let sample = run(RINGPOST, &["config", "sample"], b"");
    assert!(sample.status.success());
    let file = folder.path().join("sample.toml");
    fs::write(&file, &sample.stdout).expect("the file is writable");
    let out = run(RINGPOST, &["check", "--config", text(&file)], b"");
    assert!(out.status.success(), "the sample is valid: {}", text_of(&out));
    let reference = run(RINGPOST, &["config", "reference"], b"");
    let reference = String::from_utf8(reference.stdout).expect("UTF-8");
    let sample = String::from_utf8(sample.stdout).expect("UTF-8");
    for key in ["message_size", "greeting_delay", "proxy_from", "min_free_space"] {
        assert!(reference.contains(key) && sample.contains(key), "{key}");
    }
    let version = run(RINGPOST, &["--version"], b"");
    assert!(text_of(&version).starts_with("ringpost "), "{}", text_of(&version));
    assert!(!run(RINGPOST, &["serve", "--no-such-flag"], b"").status.success());
    assert!(!run(RINGPOST, &["frobnicate"], b"").status.success());
}

/// `queue` gives the same answers from a running server and from the spool of a stopped one.
#[test]
fn the_queue_is_readable_running_and_stopped() {
    let mut rig = Rig::start(&Plan::default());
    let mut ids = Vec::new();
    for number in 0..5 {
        let mut client = rig.client();
        let body =
            format!("Subject: number {number}\r\nFrom: Me <a@x.test>\r\n\r\ntext {number}\r\n");
        let to = format!("b{number}@y.test");
        ids.push(id_of(
            &client.submit("a@x.test", &to, body.as_bytes()).expect("the server answers"),
        ));
    }
    let running = look(&rig, &ids);
    rig.server.signal("TERM");
    let status = rig.server.wait(crate::support::PATIENCE);
    assert!(status.success(), "{status}:\n{}", rig.server.log_text());
    assert_eq!(look(&rig, &ids), running, "stopped and running differ");

    // Deletion, stopped and then running.
    let out = text_of(&rig.try_queue(&["delete", &ids[0]]));
    assert!(out.contains(&ids[0]), "{out}");
    assert_eq!(rig.messages(), 4);
    let plan = rig.plan.clone();
    let folder = std::mem::replace(&mut rig.folder, new_folder());
    drop(rig);
    let rig = Rig::start_in(folder, &plan);
    assert_eq!(rig.messages(), 4, "the deletion is durable");
    rig.queue(&["delete", &ids[1], &ids[2]]);
    assert_eq!(rig.messages(), 2);
    const USAGE: i32 = 2;
    const NOT_FOUND: i32 = 3;
    let rows: [(&str, &[&str], i32); 6] = [
        ("gone", &["show", &ids[0]], NOT_FOUND),
        ("deleted before", &["delete", &ids[1]], NOT_FOUND),
        ("cat of a deleted one", &["cat", &ids[2]], NOT_FOUND),
        ("no id", &["show", "nonsense!"], USAGE),
        ("no page", &["list", "--after", "???"], USAGE),
        ("never existed", &["cat", "0000000000001"], USAGE),
    ];
    for (name, words, code) in rows {
        let out = rig.try_queue(words);
        assert_eq!(out.status.code(), Some(code), "{name}: {}", text_of(&out));
        assert!(!out.stderr.is_empty(), "{name}: {}", text_of(&out));
    }
    let out = rig.try_queue(&["delete", "--json", &ids[3], &ids[0]]);
    assert!(!out.status.success(), "one of them is already deleted");
    let told: serde_json::Value = serde_json::from_slice(&out.stdout).expect("the output is JSON");
    assert_eq!(told[0]["id"], ids[3].as_str());
    assert_eq!((&told[0]["outcome"], &told[0]["fault"]), (&"done".into(), &().into()), "{told}");
    assert_eq!(told[1]["fault"]["code"], "no_such_message", "{told}");
    assert_eq!(told[1]["fault"]["kind"], "not-found", "{told}");
    let left = rig.queue_json(&["list"]);
    assert_eq!(left.as_array().map(Vec::len), Some(1), "{left}");
}

fn look(rig: &Rig, ids: &[String]) -> Vec<String> {
    let list = rig.queue_json(&["list"]);
    let listed: Vec<&str> = list
        .as_array()
        .expect("rows")
        .iter()
        .map(|row| row["id"].as_str().expect("an id"))
        .collect();
    let mut ordered = ids.to_vec();
    // Messages of the same millisecond are sorted by partition.
    ordered.sort();
    assert_eq!(listed, ordered, "oldest first");
    let mut paged = Vec::new();
    let mut after: Option<String> = None;
    loop {
        let mut words = vec!["list", "--limit", "2"];
        if let Some(id) = &after {
            words.extend(["--after", id]);
        }
        let page = rig.queue_json(&words);
        let rows = page.as_array().expect("rows").clone();
        let Some(last) = rows.last() else { break };
        after = Some(last["id"].as_str().expect("an id").to_owned());
        paged.extend(rows);
    }
    assert_eq!(paged.len(), ids.len(), "pages add up");
    let show = rig.queue_json(&["show", &ids[3]]);
    assert_eq!(show["sender"], "a@x.test");
    assert_eq!(show["header"]["subject"], "number 3");
    assert_eq!(show["recipients"][0]["mailbox"], "b3@y.test");
    let stats = rig.queue_json(&["stats"]);
    assert_eq!(stats["messages"], ids.len() as u64);
    assert_eq!(stats["in_quarantine"], 0);
    let mut all = vec![list.to_string(), show.to_string(), stats["body_bytes"].to_string()];
    for id in ids {
        all.push(String::from_utf8(rig.queue(&["cat", id])).expect("the text is ASCII"));
        let plain = String::from_utf8(rig.queue(&["show", id])).expect("UTF-8");
        assert!(plain.contains(id.as_str()), "{plain}");
    }
    let plain = String::from_utf8(rig.queue(&["list"])).expect("UTF-8");
    assert!(ids.iter().all(|id| plain.contains(id.as_str())), "{plain}");
    let head = plain.lines().next().expect("the table has a header");
    let end = head.find("bytes").expect("the table has this column") + "bytes".len();
    let rows = plain.lines().filter(|row| ids.iter().any(|id| row.starts_with(id.as_str())));
    for row in rows {
        assert!(row[..end].ends_with(|one: char| one.is_ascii_digit()), "{plain}");
        assert!(
            row[end..].starts_with("  "),
            "numbers are right-aligned with their header: {plain}"
        );
    }
    all.push(plain);
    all
}

#[test]
fn health_is_queried_from_the_command_line() {
    let mut rig = Rig::start(&Plan::default());
    let config = rig.config();
    let ask = || run(RINGPOST, &["health", "--config", text(&config)], b"");
    let out = ask();
    assert!(out.status.success(), "{}", text_of(&out));
    rig.server.kill();
    let out = ask();
    assert!(!out.status.success() && !out.stderr.is_empty(), "{}", text_of(&out));
}
