//! Stored records: golden bytes, round trips, and no panic on any bytes.

use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;

use ringpost::base::CredentialId;
use ringpost::base::StreamNumber;
use ringpost::base::TenantId;
use ringpost::queue::Envelope;
use ringpost::queue::Job;
use ringpost::queue::Labels;
use ringpost::queue::Recipient;
use ringpost::queue::Recipients;
use ringpost::queue::RecipientsBuf;
use ringpost::queue::Tls;
use ringpost::queue::record::envelope::BodySum;
use ringpost::queue::record::head::decode_head;
use ringpost::queue::record::head::encode_head;
use ringpost::queue::record::job::Filed;
use ringpost::queue::record::job::Indexes;
use ringpost::queue::record::job::JobState;
use ringpost::queue::record::job::Schedule;
use ringpost::queue::record::key::FlowKey;
use ringpost::queue::record::key::hex;
use ringpost::queue::record::outer::Kind;
use ringpost::queue::record::outer::Reader;
use ringpost::queue::record::outer::RecordFault;
use ringpost::queue::record::outer::Writer;
use ringpost::queue::record::probe::Probed;
use ringpost::queue::record::probe::probe;
use ringpost::queue::record::stream::STREAM_MARK_LEN;
use ringpost::queue::record::stream::StreamMark;
use ringpost::queue::record::texts::Fields;
use ringpost::queue::record::texts::FieldsBuf;
use ringpost::queue::record::texts::Texts;
use ringpost::queue::record::texts::TextsBuf;
use ringpost::wire::dsn::NOTIFY_DELAY;
use ringpost::wire::dsn::NOTIFY_FAILURE;
use ringpost::wire::smtp::BodyType;
use ringpost::wire::smtp::Ret;

fn small_envelope<'a>(recipients: Recipients<'a>) -> Envelope<'a> {
    Envelope {
        received_ms: 0x0102_0304_0506_0708,
        intake_ms: 0,
        sender: Some("a@x"),
        smtputf8: false,
        requiretls: true,
        body_type: BodyType::EightBitMime,
        ret: Some(Ret::Headers),
        envid: Some("e"),
        auth: None,
        declared_bytes: Some(5),
        body: BodySum { bytes: 6, chunks: 1, crc32: 0xdead_beef },
        peer: "192.0.2.1:25".parse().unwrap(),
        helo: "h",
        listener: "l",
        protocol: "ESMTPS",
        tls: Some(Tls { version: "v", cipher: "c" }),
        message_id: Some("m"),
        head_bytes: 3,
        kept_until_ms: None,
        tenant: TenantId::OPERATOR,
        credential: None,
        stream: StreamNumber::TRANSACTIONAL,
        tags: Texts::default(),
        metadata: Fields::default(),
        labels: Labels::default(),
        recipients,
    }
}

fn small_recipients() -> RecipientsBuf {
    let mut buffer = RecipientsBuf::default();
    let notify = NOTIFY_FAILURE | NOTIFY_DELAY;
    buffer.push(&Recipient { mailbox: "b@y", notify, orcpt: Some("rfc822;b") }).unwrap();
    buffer.push(&Recipient { mailbox: "c@z", notify: 0, orcpt: None }).unwrap();
    buffer
}

fn small_fields() -> FieldsBuf {
    let mut fields = FieldsBuf::default();
    fields.push("x-pool", "gold").unwrap();
    fields.push("x-urgent", "").unwrap();
    fields
}

fn small_tags() -> TextsBuf {
    let mut tags = TextsBuf::default();
    tags.push("a").unwrap();
    tags.push("b").unwrap();
    tags
}

fn labelled<'a>(recipients: Recipients<'a>, fields: &'a FieldsBuf) -> Envelope<'a> {
    let labels = Labels { tenant: Some("t"), campaign: Some("\u{e9}"), fields: fields.as_fields() };
    Envelope { intake_ms: 7, labels, ..small_envelope(recipients) }
}

fn full_envelope<'a>(
    recipients: Recipients<'a>,
    fields: &'a FieldsBuf,
    tags: &'a TextsBuf,
) -> Envelope<'a> {
    Envelope {
        kept_until_ms: Some(9),
        tenant: TenantId(10),
        credential: Some(CredentialId(11)),
        stream: StreamNumber(12),
        tags: tags.as_texts(),
        metadata: fields.as_fields(),
        ..labelled(recipients, fields)
    }
}

fn encoded(envelope: &Envelope<'_>) -> Vec<u8> {
    let mut record = Vec::new();
    envelope.encode(&mut record).expect("it fits");
    record
}

fn small_job() -> Job<'static> {
    Job {
        number: 2,
        state: JobState::Held,
        warned: false,
        attempts: 3,
        last_attempt_ms: 4,
        due_ms: 5,
        last_reply: "450 x",
        next_hop: None,
        filed: None,
        recipients: Indexes::Stored(&[0, 0, 0, 1, 0, 0, 0, 7]),
    }
}

fn filed_job() -> Job<'static> {
    let (destination, tenant) = (0xa100_0000_0000_00b1, 0xc100_0000_0000_00d1);
    let flow = FlowKey { destination, tenant, class: 2 };
    Job { next_hop: Some("smtp:"), filed: Some(Filed { flow, deadline_ms: 8 }), ..small_job() }
}

fn encoded_job(job: &Job<'_>) -> Vec<u8> {
    let mut record = Vec::new();
    job.encode(&mut record).expect("it fits");
    record
}

/// A job as version 1 wrote it.
const GOLDEN_JOB_V1: &str =
    "014a0002010000000300000000000000040000000000000005000534353020780000000100000007d9bbd9b9";

#[test]
fn a_job_of_version_1_is_read_as_not_filed() {
    let record = bytes_of(GOLDEN_JOB_V1);
    assert_eq!(Job::decode(&record), Ok(small_job()));
    // The flag of a filed job was no flag then.
    let mut flagged = record[..record.len() - 4].to_vec();
    flagged[4] |= 0x20;
    flagged.extend_from_slice(&crc32fast::hash(&flagged).to_be_bytes());
    assert_eq!(Job::decode(&flagged), Err(RecordFault::Value("job state")));
    let filed = encoded_job(&filed_job());
    assert_eq!(Job::decode(&filed), Ok(filed_job()));
    assert_eq!(filed_job().schedule(), Schedule { due_ms: 5, filed: filed_job().filed });
}

fn bytes_of(hex: &str) -> Vec<u8> {
    let byte = |at: usize| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).expect("hex digits");
    (0..hex.len() / 2).map(byte).collect()
}

#[test]
fn a_way_of_its_own_stands_beside_the_old_fields() {
    let without = encoded_job(&small_job());
    let rerouted = Job { warned: true, next_hop: Some("smtp:relay.test:25"), ..small_job() };
    let with = encoded_job(&rerouted);
    assert_eq!(Job::decode(&with), Ok(rerouted));
    assert_eq!(Job::decode(&without).map(|job| job.next_hop), Ok(None), "as it was written before");
    assert_eq!(with.len() - without.len(), 2 + "smtp:relay.test:25".len());
    assert_eq!(with[4], 0x80 | 0x40 | 1, "warned, rerouted, held");
}

/// Envelopes as version 1 wrote them: a trace field, and labels only where there are some.
const GOLDEN_V1: [&str; 2] = [
    concat!(
        "0145",
        "0102030405060708",
        "0e0102",
        "0000000000000005",
        "000000000000000600000001deadbeef",
        "04c00002010019",
        "0003614078",
        "000165",
        "ffff",
        "000168",
        "00016c",
        "000645534d545053",
        "000176000163",
        "00016d",
        "00000003540d0a",
        "00000002",
        "0c000362407900087266633832323b62",
        "00000363407affff",
        "b4363ffa",
    ),
    concat!(
        "0145",
        "0102030405060708",
        "3e0102",
        "0000000000000005",
        "000000000000000600000001deadbeef",
        "04c00002010019",
        "0003614078",
        "000165",
        "ffff",
        "000168",
        "00016c",
        "000645534d545053",
        "000176000163",
        "00016d",
        "00000003540d0a",
        "00000007",
        "000174",
        "0002c3a9",
        "02",
        "0000001a",
        "0006782d706f6f6c0004676f6c64",
        "0008782d757267656e740000",
        "00000002",
        "0c000362407900087266633832323b62",
        "00000363407affff",
        "79986920",
    ),
];

fn golden_records() -> Vec<(&'static str, Vec<u8>, &'static str)> {
    let recipients = small_recipients();
    let (fields, tags) = (small_fields(), small_tags());
    let job = encoded_job(&small_job());
    let mut mark = Vec::new();
    StreamMark { started_ms: 0x11 }.encode(&mut mark);
    let mut head = Vec::new();
    encode_head(b"T: x\r\n", &mut head);
    vec![
        (
            "envelope",
            encoded(&small_envelope(recipients.as_recipients())),
            concat!(
                "0245",
                "0102030405060708",
                "0e0102",
                "0000000000000005",
                "000000000000000600000001deadbeef",
                "04c00002010019",
                "0003614078",
                "000165",
                "ffff",
                "000168",
                "00016c",
                "000645534d545053",
                "000176000163",
                "00016d",
                "00000003",
                "00000002",
                "0c000362407900087266633832323b62",
                "00000363407affff",
                "6c77002e",
            ),
        ),
        (
            "envelope with everything",
            encoded(&full_envelope(recipients.as_recipients(), &fields, &tags)),
            concat!(
                "0245",
                "0102030405060708",
                "7e0102",
                "0000000000000005",
                "000000000000000600000001deadbeef",
                "04c00002010019",
                "0003614078",
                "000165",
                "ffff",
                "000168",
                "00016c",
                "000645534d545053",
                "000176000163",
                "00016d",
                "00000003",
                "00000007",
                "0000000000000009",
                "000000000000000a",
                "000000000000000b",
                "000c",
                "0200000006",
                "000161000162",
                "02",
                "0000001a",
                "0006782d706f6f6c0004676f6c64",
                "0008782d757267656e740000",
                "000174",
                "0002c3a9",
                "02",
                "0000001a",
                "0006782d706f6f6c0004676f6c64",
                "0008782d757267656e740000",
                "00000002",
                "0c000362407900087266633832323b62",
                "00000363407affff",
                "197b9751",
            ),
        ),
        ("head", head, "0148543a20780d0a0d490faa"),
        (
            "job",
            job,
            "024a0002010000000300000000000000040000000000000005000534353020780000000100000007f3076931",
        ),
        (
            "filed job",
            encoded_job(&filed_job()),
            concat!(
                "024a000261",
                "00000003",
                "00000000000000040000000000000005",
                "00053435302078",
                "0005736d74703a",
                "a1000000000000b1c1000000000000d1020000000000000008",
                "0000000100000007",
                "adb67087",
            ),
        ),
        ("stream mark", mark, "015300000000000000112d275e09"),
    ]
}

#[test]
fn records_have_their_golden_bytes() {
    for (name, record, golden) in golden_records() {
        assert_eq!(hex(&record), golden, "{name}: spools on disk have the other bytes");
    }
}

#[test]
fn records_are_read_back() {
    let recipients = small_recipients();
    let envelope = small_envelope(recipients.as_recipients());
    let record = encoded(&envelope);
    let read = Envelope::decode(&record).unwrap();
    assert_eq!(read, envelope);
    let names: Vec<_> = read.recipients.iter().map(|to| to.mailbox).collect();
    assert_eq!(names, ["b@y", "c@z"]);
    assert_eq!(read.recipients.iter().next().unwrap().orcpt, Some("rfc822;b"));
    let record = encoded_job(&small_job());
    assert_eq!(Job::decode(&record), Ok(small_job()));
    assert_eq!(Job::decode(&record).unwrap().recipients.iter().collect::<Vec<_>>(), [1, 7]);
    let mut record = Vec::new();
    StreamMark { started_ms: 9 }.encode(&mut record);
    assert_eq!(record.len(), STREAM_MARK_LEN);
    assert_eq!(StreamMark::decode(&record), Ok(StreamMark { started_ms: 9 }));
}

#[test]
fn envelopes_of_version_1_are_read_and_upgraded() {
    let (recipients, fields) = (small_recipients(), small_fields());
    let plain = small_envelope(recipients.as_recipients());
    for (golden, expected) in
        GOLDEN_V1.into_iter().zip([plain, labelled(recipients.as_recipients(), &fields)])
    {
        let record = bytes_of(golden);
        assert_eq!(Envelope::decode(&record), Ok(expected));
        let upgraded = Envelope::upgrade(&record).unwrap().expect("it is of version 1");
        assert_eq!(Envelope::decode(&upgraded.envelope), Ok(expected));
        assert_eq!(decode_head(&upgraded.head), Ok(&b"T\r\n"[..]), "the trace field is the head");
        assert_eq!(Envelope::upgrade(&upgraded.envelope), Ok(None), "once is enough");
    }
}

/// A record that grows: the older reader tells a newer version from damage.
#[test]
fn a_newer_version_is_no_damage() {
    const OLD: Kind = Kind { byte: b'T', version: 1 };
    const NEW: Kind = Kind { byte: b'T', version: 2 };
    let written = |kind: Kind| {
        let mut record = Vec::new();
        let mut writer = Writer::new(&mut record, kind);
        writer.u16(7);
        if kind == NEW {
            writer.u16(8);
        }
        writer.seal();
        record
    };
    let read = |record: &[u8], kind: Kind| {
        let mut reader = Reader::open(record, kind)?;
        let fields = (reader.u16()?, if reader.version() > 1 { reader.u16()? } else { 0 });
        reader.end().map(|()| fields)
    };
    assert_eq!(read(&written(OLD), NEW), Ok((7, 0)), "the newer one reads what was before");
    assert_eq!(read(&written(NEW), NEW), Ok((7, 8)));
    assert_eq!(read(&written(NEW), OLD), Err(RecordFault::Version(2)));
    let mut damaged = written(OLD);
    damaged[0] = 2;
    assert_eq!(read(&damaged, OLD), Err(RecordFault::Checksum), "a flipped bit is damage");
}

#[test]
fn lists_are_read_back() {
    let (recipients, fields, tags) = (small_recipients(), small_fields(), small_tags());
    let envelope = full_envelope(recipients.as_recipients(), &fields, &tags);
    let record = encoded(&envelope);
    let read = Envelope::decode(&record).unwrap();
    assert_eq!(read, envelope);
    for found in [read.labels.fields, read.metadata] {
        let found: Vec<_> = found.iter().collect();
        assert_eq!(found, [("x-pool", "gold"), ("x-urgent", "")]);
    }
    assert_eq!(read.tags.iter().collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(read.recipients.len(), 2);
}

#[test]
fn a_fresh_job_names_every_recipient() {
    let mut record = Vec::new();
    Job::fresh(7, 3).encode(&mut record).unwrap();
    let job = Job::decode(&record).unwrap();
    assert_eq!(job.recipients.iter().collect::<Vec<_>>(), [0, 1, 2]);
    assert_eq!((job.number, job.attempts, job.due_ms), (0, 0, 7));
}

#[test]
fn every_flipped_bit_and_every_cut_is_refused() {
    for (name, record, _) in golden_records() {
        for place in 0..record.len() {
            for bit in 0..8 {
                let mut bad = record.clone();
                bad[place] ^= 1 << bit;
                assert!(probe(&bad).is_err(), "{name}: bit {bit} of byte {place}");
            }
            assert!(probe(&record[..place]).is_err(), "{name}: cut at {place}");
        }
        let mut longer = record.clone();
        longer.push(0);
        assert!(probe(&longer).is_err(), "{name}: one byte more");
    }
}

/// Records whose CRC is right and whose content is not.
#[test]
fn sealed_nonsense_is_refused() {
    let seal = |mut bytes: Vec<u8>| {
        let crc = crc32fast::hash(&bytes);
        bytes.extend_from_slice(&crc.to_be_bytes());
        bytes
    };
    let recipients = small_recipients();
    let good = encoded(&small_envelope(recipients.as_recipients()));
    let (fields, tags) = (small_fields(), small_tags());
    let full = encoded(&full_envelope(recipients.as_recipients(), &fields, &tags));
    /// Where the full record counts the header fields of its labels.
    const HEADER_FIELDS: usize = 160;
    let changed = |record: &[u8], place: usize, value: u8| {
        let mut bytes = record[..record.len() - 4].to_vec();
        bytes[place] = value;
        seal(bytes)
    };
    let with = |place: usize, value: u8| changed(&good, place, value);
    for (name, record, fault) in [
        ("empty", vec![], RecordFault::TooShort),
        ("a newer version", with(0, 3), RecordFault::Version(3)),
        ("no version", with(0, 0), RecordFault::Version(0)),
        ("another kind", seal(vec![1, b'X', 0]), RecordFault::Kind(b'X')),
        ("unknown flags", with(10, 0xff), RecordFault::Value("flags")),
        ("half a header field", changed(&full, HEADER_FIELDS, 3), RecordFault::Truncated),
        ("unknown body type", with(11, 3), RecordFault::Value("body type")),
        ("unknown ret", with(12, 9), RecordFault::Value("ret")),
        ("unknown family", with(37, 5), RecordFault::Value("address family")),
        ("not UTF-8", with(46, 0xff), RecordFault::NotUtf8),
        ("text past the end", with(44, 0x7f), RecordFault::Truncated),
        (
            "half an index",
            seal({
                let mut record = encoded_job(&small_job());
                record.truncate(record.len() - 6);
                record
            }),
            RecordFault::Value("recipient indexes"),
        ),
    ] {
        assert_eq!(probe(&record).map(|_| ()), Err(fault), "{name}");
    }
}

#[test]
fn what_does_not_fit_is_refused_when_written() {
    let long = "x".repeat(0x1_0000);
    let mut buffer = RecipientsBuf::default();
    let refused = buffer.push(&Recipient { mailbox: &long, notify: 0, orcpt: None });
    assert_eq!(refused, Err(RecordFault::TooLong("mailbox")));
    assert!(buffer.is_empty());
    assert_eq!(buffer.as_recipients(), Recipients::default(), "nothing of it stays");
    let envelope = Envelope { helo: &long, ..small_envelope(Recipients::default()) };
    assert_eq!(envelope.encode(&mut Vec::new()), Err(RecordFault::TooLong("helo")));
}

fn some_text() -> impl Strategy<Value = Option<String>> {
    proptest::option::of("\\PC{0,80}")
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: Some(Box::new(FileFailurePersistence::WithSource("seeds"))),
        ..ProptestConfig::default()
    })]

    #[test]
    fn any_bytes_are_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = probe(&bytes);
        // With a sound outer form, so that the fields are reached.
        for (version, kind) in [(1, b'E'), (2, b'E'), (1, b'H'), (1, b'J'), (2, b'J'), (1, b'S')] {
            let mut record = vec![version, kind];
            record.extend_from_slice(&bytes);
            record.extend_from_slice(&crc32fast::hash(&record).to_be_bytes());
            if version == 2 && let Ok(Probed::Envelope(envelope)) = probe(&record) {
                prop_assert_eq!(encoded(&envelope), record);
            }
        }
    }

    #[test]
    fn any_envelope_is_read_back(
        received_ms: u64,
        texts in proptest::array::uniform5(some_text()),
        flags: (bool, bool),
        labels in proptest::array::uniform2(some_text()),
        headers in proptest::collection::vec(("\\PC{1,60}", "\\PC{0,80}"), 0..6),
        intake_ms: u32,
        declared_bytes: Option<u64>,
        sum: (u64, u32, u32),
        peer: (std::net::IpAddr, u16),
        head_bytes: u32,
        identity: (u64, Option<std::num::NonZeroU64>, u16, Option<std::num::NonZeroU64>),
        tags in proptest::collection::vec("\\PC{1,60}", 0..6),
        mailboxes in proptest::collection::vec(("\\PC{1,60}", 0u8..16, some_text()), 0..20),
    ) {
        let mut buffer = RecipientsBuf::default();
        for (mailbox, notify, orcpt) in &mailboxes {
            buffer.push(&Recipient { mailbox, notify: *notify, orcpt: orcpt.as_deref() }).unwrap();
        }
        let mut fields = FieldsBuf::default();
        for (name, value) in &headers {
            fields.push(name, value).unwrap();
        }
        let mut texts_buf = TextsBuf::default();
        tags.iter().for_each(|tag| texts_buf.push(tag).unwrap());
        let [tenant, campaign] = &labels;
        let [sender, envid, auth, message_id, tls] = &texts;
        let envelope = Envelope {
            received_ms,
            sender: sender.as_deref(),
            smtputf8: flags.0,
            requiretls: flags.1,
            envid: envid.as_deref(),
            auth: auth.as_deref(),
            declared_bytes,
            body: BodySum { bytes: sum.0, chunks: sum.1, crc32: sum.2 },
            peer: peer.into(),
            tls: tls.as_deref().map(|text| Tls { version: text, cipher: text }),
            message_id: message_id.as_deref(),
            head_bytes,
            kept_until_ms: identity.3.map(u64::from),
            tenant: TenantId(identity.0),
            credential: identity.1.map(|raw| CredentialId(raw.get())),
            stream: StreamNumber(identity.2),
            tags: texts_buf.as_texts(),
            metadata: fields.as_fields(),
            intake_ms,
            labels: Labels {
                tenant: tenant.as_deref(),
                campaign: campaign.as_deref(),
                fields: fields.as_fields(),
            },
            ..small_envelope(buffer.as_recipients())
        };
        let record = encoded(&envelope);
        let read = Envelope::decode(&record).unwrap();
        prop_assert_eq!(read, envelope);
        let names: Vec<_> = read.recipients.iter().map(|to| to.mailbox).collect();
        let sent: Vec<_> = mailboxes.iter().map(|(mailbox, ..)| mailbox.as_str()).collect();
        prop_assert_eq!(names, sent);
    }
}
