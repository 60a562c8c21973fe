//! Queues of slow destinations: operations, reloads, and mail for other destinations.

use std::time::Duration;
use std::time::Instant;

use serde_json::Value;

use crate::scenario::kit::Plan;
use crate::scenario::kit::Rig;
use crate::scenario::kit::text_of;
use crate::scenario::operators::Manner;
use crate::scenario::operators::Sink;
use crate::scenario::operators::ask;
use crate::scenario::operators::await_empty;
use crate::scenario::operators::await_some;
use crate::scenario::operators::await_why;
use crate::scenario::operators::queue_text;
use crate::scenario::operators::submit;

/// Time limit for mail to a fast destination, whatever waits for others.
const QUICK: Duration = Duration::from_secs(10);

/// One shard that sends everything to the sink, with one job at a time at its owner.
fn narrow(sink: &Sink, connections: usize) -> Plan {
    let rest = format!(
        "[delivery]\nenabled = true\n[[route]]\nnext = \"smtp:{}\"\n\
         [destination_defaults]\nconnections_max = {connections}\nwindow_start = {connections}\n",
        sink.address
    );
    Plan { rest, server: "cores = \"0\"\n".to_owned(), ..Plan::default() }
}

#[test]
fn jobs_waiting_at_their_home_shard_are_held_and_deleted() {
    for is_paused in [false, true] {
        let sink = Sink::start(Manner::Dawdles);
        let rig = Rig::start(&narrow(&sink, 1));
        if is_paused {
            ask(&rig, &["destination", "pause", "127.0.0.1"]);
        }
        let ids: Vec<String> =
            (0..6).map(|number| submit(&rig, &format!("mail {number}"))).collect();
        // The first job is at the owner of its destination; the others wait until it returns.
        await_why(&rig, &ids[0], if is_paused { "paused" } else { "Being sent to" });
        assert!(queue_text(&rig, &["hold", &ids[2]]).ends_with("held\n"));
        assert!(queue_text(&rig, &["delete", &ids[4]]).contains("deleted"));
        assert!(ask(&rig, &["why", &ids[2]]).contains("Held: no delivery attempt"));
        assert!(!rig.try_queue(&["show", &ids[4]]).status.success(), "it is gone");
        sink.turn(Manner::Takes);
        if is_paused {
            ask(&rig, &["destination", "resume", "127.0.0.1"]);
        }
        for number in [0, 1, 3, 5] {
            sink.await_mail(&format!("Subject: mail {number}"));
        }
        await_some("the end of all others", || (rig.messages() == 1).then_some(()));
        assert_eq!(sink.mail().len(), 4, "a held message is not sent: {:?}", sink.mail());
        queue_text(&rig, &["release", &ids[2]]);
        sink.await_mail("Subject: mail 2");
        await_empty(&rig);
        assert_eq!(sink.mail().len(), 5, "a deleted message is not sent: {:?}", sink.mail());
        let gone = rig.try_queue(&["hold", &ids[4]]);
        assert!(text_of(&gone).contains("no such message"), "{}", text_of(&gone));
    }
}

#[test]
fn a_reload_reaches_a_busy_destination() {
    let sink = Sink::start(Manner::Dawdles);
    let rig = Rig::start(&narrow(&sink, 3));
    let ids: Vec<String> = (0..9).map(|number| submit(&rig, &format!("mail {number}."))).collect();
    await_why(&rig, &ids[0], "Being sent to");
    let show = || -> Value {
        let said = ask(&rig, &["destination", "show", "127.0.0.1", "--json"]);
        let destination: Value = serde_json::from_str(&said).expect("JSON");
        destination["destinations"][0].clone()
    };
    let await_connections = |max: u64, busy: u64| {
        await_some(&format!("{busy} of {max} connections in {}", show()), || {
            let connections = &show()["connections"];
            (connections["max"] == max && connections["busy"] == busy).then_some(())
        });
    };
    await_connections(3, 3);
    // A transfer in progress is completed.
    rig.rewrite(&narrow(&sink, 1));
    rig.reload("reloaded");
    await_connections(1, 3);
    rig.rewrite(&narrow(&sink, 2));
    rig.reload("reloaded");
    await_connections(2, 3);
    sink.turn(Manner::Takes);
    (0..9).for_each(|number| drop(sink.await_mail(&format!("Subject: mail {number}."))));
    await_empty(&rig);
    assert_eq!(sink.mail().len(), 9, "each once: {:?}", sink.mail());
}

#[test]
fn many_slow_destinations_do_not_delay_a_fast_one() {
    const SLOW: usize = 10;
    let slow: Vec<Sink> = (0..SLOW).map(|_| Sink::start(Manner::Dawdles)).collect();
    let quick = Sink::start(Manner::Takes);
    let route = |domain: &str, sink: &Sink| {
        let next = sink.address;
        format!("[[route]]\nrecipient_domain = ['{domain}']\nnext = 'smtp:{next}'\n")
    };
    let mut rest = "[delivery]\nenabled = true\njobs_in_memory_max = 100\n".to_owned();
    for (number, sink) in slow.iter().enumerate() {
        rest.push_str(&route(&format!("slow{number}.test"), sink));
    }
    rest.push_str(&route("quick.test", &quick));
    let rig = Rig::start(&Plan { rest, server: "cores = \"0\"\n".to_owned(), ..Plan::default() });
    let mut client = rig.client();
    let mut send = |domain: &str, subject: &str| {
        let body = format!("Subject: {subject}\r\n\r\ntext\r\n");
        let reply = client.submit("a@x.test", &format!("b@{domain}"), body.as_bytes());
        assert_eq!(reply.expect("the server answers").code, 250);
    };
    for number in 0..50 * SLOW {
        send(&format!("slow{}.test", number % SLOW), "slow");
    }
    (0..60).for_each(|number| send("quick.test", &format!("quick {number}.")));
    // The time of the commit depends on the disk and is not counted.
    let began = Instant::now();
    (0..60).for_each(|number| drop(quick.await_mail(&format!("Subject: quick {number}."))));
    assert!(began.elapsed() < QUICK, "{:?}", began.elapsed());
    assert!(slow.iter().all(|sink| sink.mail().is_empty()), "the others still wait");
    slow.iter().for_each(|sink| sink.turn(Manner::Takes));
    await_empty(&rig);
    let arrived: Vec<usize> = slow.iter().map(|sink| sink.mail().len()).collect();
    assert_eq!(arrived, [50; SLOW], "each once");
}
