//! Replies of real servers.

use proptest::prelude::*;

use crate::wire::classify::Advice;
use crate::wire::classify::Category;
use crate::wire::classify::Category::*;
use crate::wire::classify::Cause;
use crate::wire::classify::Classifier;
use crate::wire::classify::RemoteReply;
use crate::wire::classify::Verdict;
use crate::wire::classify::table::Codes;
use crate::wire::classify::table::Rule;

const GOOGLE: &str = "gmail-smtp-in.l.google.com";
const MICROSOFT: &str = "example-com.mail.protection.outlook.com.";
const YAHOO: &str = "mta5.am0.yahoodns.net";
const APPLE: &str = "mx01.mail.icloud.com";
const COMCAST: &str = "mx1a1.comcast.net";
const GMX: &str = "mx00.gmx.net";
const WEB_DE: &str = "mx-ha03.web.de";
const TELEKOM: &str = "mx00.t-online.de";
const PROOFPOINT: &str = "mxa-00000001.gslb.pphosted.com";
const MIMECAST: &str = "eu-smtp-inbound-1.mimecast.com";
const BARRACUDA: &str = "d1.a.ess.barracudanetworks.com";
const ORANGE: &str = "smtp-in.orange.fr";
const ANY: &str = "mx.b.test";

fn check(classifier: &Classifier, host: &str, line: &str) -> Verdict {
    let (code, text) = line.split_once(' ').expect("a code and a text");
    let code = code.parse().expect("a code is a number");
    classifier.classify(&RemoteReply { code, enhanced: None, text, host: Some(host) }).verdict
}

#[rustfmt::skip]
const REPLIES: &[(&str, &str, Category, Advice)] = &[
    (GOOGLE, "250 2.0.0 OK  1732158000 a1-2002 - gsmtp", Delivered, Advice::Follow),
    (GOOGLE, "550 5.1.1 The email account that you tried to reach does not exist. Please try 5.1.1 double-checking the recipient's email address", BadMailbox, Advice::Suppress),
    (GOOGLE, "550 5.2.1 The email account that you tried to reach is inactive. For more information, go to https://support.google.com/mail/?p=DisabledUser", Inactive, Advice::Suppress),
    (GOOGLE, "550 5.2.1 The email account that you tried to reach is disabled.", Inactive, Advice::Suppress),
    (GOOGLE, "450 4.2.1 The user you are trying to contact is receiving mail at a rate that\n4.2.1 prevents additional messages from being delivered.", RateLimited, Advice::Wait),
    (GOOGLE, "452 4.2.2 The recipient's inbox is out of storage space.", QuotaFull, Advice::Wait),
    (GOOGLE, "552 5.2.2 The email account that you tried to reach is over quota.", QuotaFull, Advice::Wait),
    (GOOGLE, "421 4.7.0 [192.0.2.1 15] Our system has detected an unusual rate of\n4.7.0 unsolicited mail originating from your IP address.", RateLimited, Advice::Slow),
    (GOOGLE, "421 4.7.28 Gmail has detected an unusual rate of unsolicited mail originating 4.7.28 from your SPF domain", RateLimited, Advice::Slow),
    (GOOGLE, "550 5.7.1 [192.0.2.1 12] Our system has detected that this message is likely unsolicited mail. To reduce the amount of spam sent to Gmail, this message has been blocked.", Spam, Advice::Pause),
    (GOOGLE, "550 5.7.1 [192.0.2.1 19] Our system has detected that this message is likely suspicious due to the very low reputation of the sending IP address.", Blocklisted, Advice::Pause),
    (GOOGLE, "550 5.7.26 This mail has been blocked because the sender is unauthenticated. Gmail requires all senders to authenticate with either SPF or DKIM.", Auth, Advice::Fix),
    (GOOGLE, "550 5.7.25 The IP address sending this message does not have a PTR record setup", Auth, Advice::Fix),
    (GOOGLE, "550 5.7.1 [2001:db8::1] Our system has detected that this message does not meet IPv6 sending guidelines regarding PTR records and authentication.", Auth, Advice::Fix),
    (GOOGLE, "552 5.7.0 This message was blocked because its content presents a potential security issue.", Content, Advice::Follow),
    (GOOGLE, "552 5.3.4 Your message exceeded Google's message size limits.", TooBig, Advice::Follow),
    (GOOGLE, "550 5.7.29 Messages must be sent over TLS", TlsRequired, Advice::Fix),
    (MICROSOFT, "550 5.4.1 Recipient address rejected: Access denied. [AM0EUR02FT012.eop-EUR02.prod.protection.outlook.com]", BadMailbox, Advice::Suppress),
    (MICROSOFT, "550 5.5.0 Requested action not taken: mailbox unavailable (S2017062302).", BadMailbox, Advice::Suppress),
    (MICROSOFT, "550 5.1.10 RESOLVER.ADR.RecipientNotFound; Recipient not found by SMTP address lookup", BadMailbox, Advice::Suppress),
    (MICROSOFT, "550 5.7.1 Unfortunately, messages from [192.0.2.1] weren't sent. Please contact your Internet service provider since part of their network is on our block list (S3140).", Blocklisted, Advice::Pause),
    (MICROSOFT, "451 4.7.650 The mail server [192.0.2.1] has been temporarily rate limited due to IP reputation. For e-mail delivery information, see https://postmaster.live.com (S775)", RateLimited, Advice::Slow),
    (MICROSOFT, "451 4.7.500 Server busy. Please try again later from [192.0.2.1]. (S77719)", RateLimited, Advice::Slow),
    (MICROSOFT, "550 5.7.606 Access denied, banned sending IP [192.0.2.1]. To request removal from this list please visit https://sender.office.com/", Blocklisted, Advice::Fix),
    (MICROSOFT, "550 5.7.515 Access denied, sending domain example.org doesn't meet the required authentication level.", Auth, Advice::Fix),
    (MICROSOFT, "550 5.7.509 Access denied, sending domain example.org does not pass DMARC verification and has a DMARC policy of reject.", Auth, Advice::Fix),
    (MICROSOFT, "550 5.7.1 Service unavailable, Client host [192.0.2.1] blocked using Spamhaus. To request removal from this list see https://www.spamhaus.org/query/ip/192.0.2.1 (AS16012609)", Blocklisted, Advice::Pause),
    (MICROSOFT, "550 5.7.64 TenantAttribution; Relay Access Denied SMTP", Routing, Advice::Fix),
    (MICROSOFT, "432 4.3.2 STOREDRV.Deliver; recipient thread limit exceeded", RemoteBusy, Advice::Wait),
    (MICROSOFT, "554 5.2.2 mailbox full; STOREDRV.Deliver.Exception:QuotaExceededException", QuotaFull, Advice::Wait),
    (YAHOO, "421 4.7.0 [TSS04] Messages from 192.0.2.1 temporarily deferred due to unexpected volume or user complaints - 4.16.55.1; see https://postmaster.yahooinc.com/error-codes", RateLimited, Advice::Slow),
    (YAHOO, "421 4.7.1 [TS03] All messages from 192.0.2.1 will be permanently deferred; Retrying will NOT succeed.", Blocklisted, Advice::Pause),
    (YAHOO, "421 4.7.0 [GL01] Message from (192.0.2.1) temporarily deferred", Greylisted, Advice::Wait),
    (YAHOO, "553 5.7.1 [BL21] Connections will not be accepted from 192.0.2.1, because the ip is in Spamhaus's list", Blocklisted, Advice::Pause),
    (YAHOO, "554 delivery error: dd This user doesn't have a yahoo.com account (x@yahoo.com) [-5] - mta4.mail.ne1.yahoo.com", BadMailbox, Advice::Suppress),
    (YAHOO, "554 30 Sorry, your message to x@aol.com cannot be delivered. This mailbox is disabled (554.30).", Inactive, Advice::Suppress),
    (YAHOO, "552 1 Requested mail action aborted, mailbox not found", BadMailbox, Advice::Suppress),
    (YAHOO, "554 5.7.9 Message not accepted for policy reasons. See https://postmaster.yahooinc.com/error-codes", Policy, Advice::Follow),
    (YAHOO, "421 mtain-mp01 Service unavailable - try again later (DYNT1)", RateLimited, Advice::Slow),
    (APPLE, "554 5.7.1 [HM08] Message rejected due to local policy. Please visit https://support.apple.com/en-us/HT204137", Blocklisted, Advice::Pause),
    (APPLE, "550 5.7.1 [CS01] Message rejected due to local policy.", Spam, Advice::Follow),
    (APPLE, "550 5.1.1 <x@icloud.com>: user does not exist", BadMailbox, Advice::Suppress),
    (APPLE, "552 5.2.2 <x@icloud.com>: user is over quota", QuotaFull, Advice::Wait),
    (COMCAST, "421 4.1.0 192.0.2.1 Throttled - try again later. Please see https://postmaster.comcast.net/smtp-error-codes.php#RL000001", RateLimited, Advice::Slow),
    (COMCAST, "554 resimta-po-01v.sys.comcast.net comcast 192.0.2.1 Comcast block for spam. Please see http://postmaster.comcast.net/smtp-error-codes.php#BL000000", Blocklisted, Advice::Pause),
    (COMCAST, "550 5.1.1 <x@comcast.net> Account not available", BadMailbox, Advice::Suppress),
    (GMX, "554 gmx.net (mxgmx016) Nemesis ESMTP Service not available No SMTP service Bad DNS PTR resource record. For explanation visit https://postmaster.gmx.net/en/error-messages?ip=192.0.2.1&c=rdns", Auth, Advice::Fix),
    (GMX, "554 gmx.net (mxgmx116) Nemesis ESMTP Service not available No SMTP service Reject due to policy restrictions.", Policy, Advice::Pause),
    (GMX, "550 5.2.1 <x@gmx.net> ... User is inactive", Inactive, Advice::Suppress),
    (GMX, "421 gmx.net Service closing transmission channel - message rate too high", RateLimited, Advice::Slow),
    (WEB_DE, "550 Requested action not taken: mailbox unavailable For explanation visit https://postmaster.web.de/en/case?c=r0601", BadMailbox, Advice::Follow),
    (WEB_DE, "550 Benutzer hat das Speichervolumen ueberschritten. / User has exhausted allowed storage space.", QuotaFull, Advice::Wait),
    (TELEKOM, "554 IP=192.0.2.1 - A problem occurred. (Ask your postmaster for help or to contact tosa@rx.t-online.de to clarify.)", Blocklisted, Advice::Fix),
    (PROOFPOINT, "554 Blocked - see https://ipcheck.proofpoint.com/?ip=192.0.2.1", Blocklisted, Advice::Pause),
    (PROOFPOINT, "421 Deferred - see https://ipcheck.proofpoint.com/?ip=192.0.2.1", RateLimited, Advice::Slow),
    (PROOFPOINT, "550 5.1.1 User Unknown", BadMailbox, Advice::Suppress),
    (MIMECAST, "451 Internal resources are temporarily unavailable - https://community.mimecast.com/docs/DOC-1369#451 [abc]", Greylisted, Advice::Wait),
    (MIMECAST, "550 Rejected by header based Anti-Spoofing policy: x@y.test - https://community.mimecast.com/docs/DOC-1369#550", Auth, Advice::Fix),
    (MIMECAST, "550 Administrative prohibition - envelope blocked", Policy, Advice::Follow),
    (MIMECAST, "550 Local CT IP Reputation - (ip)", Blocklisted, Advice::Pause),
    (BARRACUDA, "550 permanent failure for one or more recipients (x@b.test:blocked)", Spam, Advice::Follow),
    (ANY, "554 Service unavailable; Client host [192.0.2.1] blocked using Barracuda Reputation; http://www.barracudanetworks.com/reputation/?r=1&ip=192.0.2.1", Blocklisted, Advice::Pause),
    (ORANGE, "550 5.2.0 Mail rejete. Mail rejected. OFR_506 [506]", RateLimited, Advice::Slow),
    (ANY, "554 5.7.1 Service unavailable; Client host [192.0.2.1] blocked using zen.spamhaus.org; https://www.spamhaus.org/query/ip/192.0.2.1", Blocklisted, Advice::Pause),
    (ANY, "550 5.1.1 <x@b.test>: Recipient address rejected: User unknown in local recipient table", BadMailbox, Advice::Suppress),
    (ANY, "450 4.1.1 <x@b.test>: Recipient address rejected: unverified address", BadMailbox, Advice::Wait),
    (ANY, "450 4.2.0 <x@b.test>: Recipient address rejected: Greylisted, see http://postgrey.schweikert.ch/help/b.test.html", Greylisted, Advice::Wait),
    (ANY, "451 4.7.1 Greylisting in action, please come back later", Greylisted, Advice::Wait),
    (ANY, "554 Sorry, no mailbox here by that name. (#5.1.1)", BadMailbox, Advice::Suppress),
    (ANY, "550 #5.1.0 Address rejected x@b.test", BadMailbox, Advice::Follow),
    (ANY, "550 No Such User Here", BadMailbox, Advice::Suppress),
    (ANY, "550 Unrouteable address", BadMailbox, Advice::Follow),
    (ANY, "554 5.7.1 <x@b.test>: Relay access denied", Relaying, Advice::Fix),
    (ANY, "550 5.7.1 Unable to relay for x@b.test", Relaying, Advice::Fix),
    (ANY, "530 5.7.0 Must issue a STARTTLS command first", TlsRequired, Advice::Fix),
    (ANY, "530 5.7.0 Authentication required", Relaying, Advice::Fix),
    (ANY, "552 5.3.4 Message size exceeds fixed maximum message size (10485760)", TooBig, Advice::Follow),
    (ANY, "552 5.2.2 Mailbox size limit exceeded", QuotaFull, Advice::Wait),
    (ANY, "452 4.3.1 Insufficient system storage", RemoteBusy, Advice::Wait),
    (ANY, "421 4.7.0 mx.b.test Error: too many connections from 192.0.2.1", RateLimited, Advice::Slow),
    (ANY, "550 5.7.23 SPF validation failed", Auth, Advice::Fix),
    (ANY, "550 5.7.1 Email rejected per DMARC policy for a.test", Auth, Advice::Fix),
    (ANY, "554 5.7.1 Message rejected as spam by Content Filtering.", Spam, Advice::Slow),
    (ANY, "550 5.7.1 Message contains a virus", Content, Advice::Follow),
    (ANY, "556 5.1.10 Recipient address has null MX", BadDomain, Advice::Suppress),
    (ANY, "521 5.3.2 Server does not accept mail", BadDomain, Advice::Suppress),
    (ANY, "554 5.4.6 Too many hops", Routing, Advice::Follow),
    (ANY, "450 4.7.25 Client host rejected: cannot find your reverse hostname, [192.0.2.1]", Auth, Advice::Fix),
    (ANY, "450 4.1.8 <a@a.test>: Sender address rejected: Domain not found", Policy, Advice::Fix),
    (ANY, "452 4.5.3 Too many recipients", RateLimited, Advice::Wait),
    (ANY, "451 4.4.2 Timeout waiting for data", Connection, Advice::Follow),
    (ANY, "421 Service shutting down", RemoteBusy, Advice::Slow),
    (ANY, "501 Syntax error in parameters", Protocol, Advice::Fix),
    (ANY, "503 5.5.1 Bad sequence of commands", Protocol, Advice::Follow),
    (ANY, "550 5.5.2 Bare LF refused", Protocol, Advice::Follow),
    (ANY, "550 Go away", Other, Advice::Follow),
    (ANY, "599 ", Other, Advice::Follow),
];

#[test]
fn real_replies_are_classified() {
    let classifier = Classifier::built_in();
    let mut wrong = Vec::new();
    for &(host, line, category, advice) in REPLIES {
        let found = check(&classifier, host, line);
        if found != (Verdict { category, advice }) {
            wrong.push(format!("{host}: {line}\n    {found:?}, not {category:?} {advice:?}"));
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn the_built_in_rules_are_valid_and_cover_all_categories() {
    let classifier = Classifier::built_in();
    assert!(classifier.rules.len() >= 80, "{}", classifier.rules.len());
    for category in Category::ALL {
        let ruled = classifier.rules.iter().any(|rule| rule.verdict.category == category);
        assert!(ruled || category == Delivered, "{category:?} has no rule");
    }
}

#[test]
fn no_rule_is_shadowed_by_an_earlier_one() {
    let classifier = Classifier::built_in();
    let hides = |early: &Rule, late: &Rule| {
        let covered =
            |wanted: &Codes| classifier.codes_of(early).iter().any(|codes| codes.covers(wanted));
        (early.provider.is_none() || early.provider == late.provider)
            && classifier.codes_of(late).iter().all(covered)
            && classifier
                .words_of(early)
                .iter()
                .all(|few| classifier.words_of(late).iter().any(|more| more.contains(&**few)))
    };
    let mut dead = Vec::new();
    for (place, late) in classifier.rules.iter().enumerate() {
        if let Some(early) = classifier.rules[..place].iter().find(|early| hides(early, late)) {
            let words = |rule| classifier.words_of(rule).join(" + ");
            dead.push(format!("rule {place} `{}` behind `{}`", words(late), words(early)));
        }
    }
    assert!(dead.is_empty(), "{}", dead.join("\n"));
}

impl Codes {
    fn covers(&self, other: &Codes) -> bool {
        let holds = |wide: &std::ops::RangeInclusive<u16>,
                     narrow: &std::ops::RangeInclusive<u16>| {
            wide.contains(narrow.start()) && wide.contains(narrow.end())
        };
        let basic = match (&self.basic, &other.basic) {
            (None, _) => true,
            (Some(wide), Some(narrow)) => holds(wide, narrow),
            (Some(_), None) => false,
        };
        let enhanced = match (&self.enhanced, &other.enhanced) {
            (None, _) => true,
            (Some(wide), Some(narrow)) => wide.iter().zip(narrow).all(|(w, n)| holds(w, n)),
            (Some(_), None) => false,
        };
        basic && enhanced
    }
}

#[test]
fn a_provider_is_identified_by_its_host_name_only() {
    let classifier = Classifier::built_in();
    let text = "5.4.1 Recipient address rejected: Access denied.";
    let with_host = |host: Option<&str>| {
        classifier.classify(&RemoteReply { code: 550, enhanced: None, text, host }).verdict.category
    };
    assert_eq!(with_host(Some("A.Mail.Protection.OUTLOOK.com")), BadMailbox);
    assert_eq!(with_host(Some("notoutlook.com")), Connection);
    assert_eq!(with_host(Some("")), Connection);
    assert_eq!(with_host(None), Connection);
}

#[test]
fn an_explicit_enhanced_code_takes_precedence() {
    let reply = RemoteReply { code: 550, enhanced: Some((5, 2, 2)), text: "5.1.1 x", host: None };
    assert_eq!(Classifier::built_in().classify(&reply).verdict.category, QuotaFull);
}

#[test]
fn every_cause_has_a_text() {
    for cause in [Cause::NoDomain, Cause::Expired, Cause::TlsFailed, Cause::OurFault] {
        let (class, ..) = cause.status();
        assert!(matches!(class, 4 | 5));
        assert!(cause.text().ends_with('.'));
        assert!(cause.verdict().category != Delivered);
        assert!(class == 5 || cause.verdict().advice != Advice::Suppress);
    }
}

proptest! {
    /// Nothing panics, and a 4xx never suppresses an address.
    #[test]
    fn any_reply_has_a_verdict(code in any::<u16>(), text in "\\PC{0,40}|[0-9.# \\-]{0,20}") {
        let classifier = Classifier::built_in();
        let verdict = classifier.classify(&RemoteReply { code, enhanced: None, text: &text, host: None }).verdict;
        prop_assert!(code >= 500 || verdict.advice != Advice::Suppress);
    }
}
