//! The effects of home and owner, as a shard carries them out.
//!
//! Promise:  an effect that waits for an answer gets one: a task that is ended by a bug answers with the
//!           event that `Watch` holds.
//! Order:    effects are carried out in the order of their list; what they lead to waits in `steps`.

use super::*;

impl Running {
    pub(super) fn carry_out_owner(&self, effect: OwnerEffect) {
        match effect {
            OwnerEffect::Open { conn, hop, source } => {
                let nudge = Rc::new(Nudge::default());
                self.nudges.borrow_mut().insert(conn, Rc::clone(&nudge));
                task::spawn(connection::run(self.rc(), conn, (hop, source), nudge));
            }
            OwnerEffect::Wake { conn } => {
                if let Some(nudge) = self.nudges.borrow().get(&conn) {
                    nudge.wake();
                }
            }
            OwnerEffect::Send { to, frame } => self.send(to, frame),
            OwnerEffect::Save { limits } => self.saver.borrow_mut().save(limits, Mono::now()),
            OwnerEffect::Log { destination, state, failures, returned } => Record::Destination {
                destination: &destination,
                state: match state.binds {
                    Binds::BackingOff => "backing-off",
                    Binds::Suspended => "suspended",
                    _ => "working",
                },
                until_ms: state.until.and_then(|at| self.now().wall_at(at)).map(Wall::as_ms),
                failures,
                returned,
                host: Some(&*state.last_host).filter(|host| !host.is_empty()),
                last_error: state.last.as_ref().map(|answer| &*answer.text),
                rule: state.evidence.as_ref().map(|evidence| &*evidence.rule),
            }
            .emit(),
        }
    }

    pub(super) fn carry_out_home(&self, effect: HomeEffect, now: Now) {
        match effect {
            HomeEffect::Send { to, frame } => self.send(to, frame),
            HomeEffect::Resolve(job) => self.resolve(job, now, false),
            HomeEffect::LookUp(job) => self.resolve(job, now, true),
            HomeEffect::Write(write) => self.write(write, now),
            HomeEffect::File { partition, jobs } => self.file(partition, jobs),
            HomeEffect::Leftover { partition, row } => {
                self.leftovers.borrow_mut().entry(partition).or_default().push(row);
            }
            HomeEffect::Answer { ticket, answer } => {
                if let Some(to) = self.answers.borrow_mut().remove(&ticket) {
                    to(answer);
                }
            }
            HomeEffect::Remove { ticket, id } => self.remove(ticket, id),
            HomeEffect::Refiled => self.note_refiled(),
            HomeEffect::Log(note) => tell(note, |id| self.public_id(id)),
            HomeEffect::Read(errand) => self.read(errand),
        }
    }

    /// Whether the settings differ from those that jobs on disk are filed under. A store that cannot be
    /// read counts as different.
    pub(super) fn is_filed_otherwise(&self) -> bool {
        let fingerprint = self.station.policy().fingerprint;
        let differs =
            |store: &Store| store.partition.filed_under().ok().flatten() != Some(fingerprint);
        self.stores.values().any(differs)
    }

    /// All jobs on disk are filed under the present settings.
    fn note_refiled(&self) {
        let fingerprint = self.station.policy().fingerprint;
        for store in self.stores.values() {
            let (partition, reader) = (Arc::clone(&store.partition), self.desk.reader.clone());
            task::spawn(async move {
                // If it fails, the next start refiles once more.
                let _ = reader.run(move || partition.set_filed_under(fingerprint)).await;
            });
        }
    }

    fn public_id(&self, id: MessageId) -> String {
        let store = self.stores.get(&id.partition());
        store.map(|store| store.partition.public_id(id).to_string()).unwrap_or_default()
    }

    /// An answer that is `lost` if its task ends without another one.
    fn watch(&self, lost: HomeEvent) -> Watch {
        Watch { running: self.rc(), answer: Some(lost) }
    }

    fn read(&self, errand: Errand) {
        let watch = self.watch(HomeEvent::Unread(errand.clone()));
        let partition = errand.partition();
        let Some(store) = self.stores.get(&partition) else { return };
        let store = Arc::clone(&store.partition);
        let reader = self.desk.reader.clone();
        task::spawn(async move {
            let read = move || {
                let body = |held| match held {
                    Some(held) => MailBody::Held(held),
                    None => MailBody::Stored(Arc::clone(&store)),
                };
                reading::read(&*store, errand, |id, envelope, message| {
                    Mail::new(store.public_id(id), envelope, body(message))
                })
            };
            // A panic of the reader is logged where it happens.
            let Some((answer, fault)) = reader.run(read).await else { return };
            if let Some(fault) = fault {
                let what = format!("partition {partition}: queued mail cannot be read: {fault}");
                let remedy = "restart the server: the start checks the spool and quarantines \
                              damaged records";
                Record::Warning { what: &what, remedy }.emit();
            }
            watch.answer(answer);
        });
    }

    /// At once if nothing has to be looked up.
    fn resolve(&self, job: JobRef, now: Now, looks_up: bool) {
        let known = {
            let home = self.home.borrow();
            let Some(question) = home.question(job) else { return };
            self.routes.known(&question, now.mono)
        };
        let event = match known {
            Ok((generation, resolved)) => HomeEvent::Resolved { job, generation, resolved },
            Err(_) if !looks_up => HomeEvent::Unknown { job },
            Err(unknown) => {
                let watch = self.watch(HomeEvent::Abandoned { jobs: vec![job] });
                let routes = Rc::clone(&self.routes);
                task::spawn(async move {
                    queue::points::point("task::resolve");
                    let (generation, resolved) = routes.resolve(unknown).await;
                    watch.answer(HomeEvent::Resolved { job, generation, resolved });
                });
                return;
            }
        };
        self.steps.borrow_mut().push_back(Step::Home(event));
    }

    fn write(&self, write: Arc<Write>, now: Now) {
        let job = write.job;
        let watch = self.watch(HomeEvent::Abandoned { jobs: vec![job] });
        let Some(store) = self.stores.get(&job.key.0.partition()).cloned() else { return };
        let running = self.rc();
        task::spawn(async move {
            let policy = running.station.policy();
            let done = running.desk.write(&store, &write, &policy, now.schedule).await;
            let (written, reports) = done;
            drop(write);
            watch.answer(HomeEvent::Written { job, written });
            running.note_behind(&store.partition);
            for report in reports {
                let fresh = Fresh {
                    id: report.id,
                    due_ms: report.job.schedule.due_ms,
                    envelope: report.envelope.into(),
                    message: Some(report.message.into()),
                };
                running.take_fresh(fresh);
            }
        });
    }

    fn file(&self, partition: PartitionId, jobs: Vec<(JobRef, Schedule)>) {
        let names: Vec<JobRef> = jobs.iter().map(|(job, _)| *job).collect();
        let watch = self.watch(HomeEvent::Abandoned { jobs: names.clone() });
        let Some(committer) = self.stores.get(&partition).map(|store| store.committer.clone())
        else {
            return;
        };
        let filing =
            |(job, schedule): &(JobRef, Schedule)| Filing { job: job.key, filed: schedule.filed };
        let filings: Arc<[Filing]> = jobs.iter().map(filing).collect();
        task::spawn(async move {
            // One that is gone has no rows: its cursors find out.
            let written = written_of(committer.file(filings).await.map(|_| true));
            let jobs = names.into_iter().map(|job| (job, written)).collect();
            watch.answer(HomeEvent::Filed { jobs });
        });
    }

    fn remove(&self, ticket: u64, id: MessageId) {
        // A failed removal is answered like a failed list.
        let watch = self.watch(HomeEvent::Unread(Errand::List { ticket, id }));
        let Some(store) = self.stores.get(&id.partition()).cloned() else { return };
        task::spawn(async move {
            if let Ok(removed) = store.committer.delete(id).await {
                watch.answer(HomeEvent::Removed { ticket, removed });
            }
        });
    }

    pub(super) fn remove_leftovers(&self) {
        for (partition, rows) in self.leftovers.take() {
            let Some(store) = self.stores.get(&partition).cloned() else { continue };
            task::spawn(async move {
                // Rows that stay are met and removed after the next start.
                let _ = store.committer.remove_leftovers(rows).await;
            });
        }
    }
}

/// The answer of a task, or what its home hears if a bug ends the task.
struct Watch {
    running: Rc<Running>,
    answer: Option<HomeEvent>,
}

impl Watch {
    fn answer(mut self, answer: HomeEvent) {
        self.answer = Some(answer);
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if let Some(answer) = self.answer.take() {
            self.running.home_event(answer);
        }
    }
}

/// What an operator should know.
fn tell(note: Note, public: impl Fn(MessageId) -> String) {
    let (what, remedy) = match note {
        Note::Damaged(job) => {
            let (id, number) = job.key;
            let id = public(id);
            let what = format!("job {number} of message {id} is damaged and is not delivered");
            (what, "restart the server: the start quarantines damaged records")
        }
        Note::Missing { jobs } => {
            let what = format!("{jobs} jobs that were given to another shard are not known there");
            (what, "they are tried again; report this as a bug")
        }
        Note::TooManyParts(id) => {
            let what = format!("message {id} needs more jobs than a message can have");
            (what, "its recipients are tried in turn")
        }
        Note::ClockJumped { by } => {
            let what = format!("the clock was set forward by {} s", by.as_secs());
            (what, "no message expires for 10 minutes; check the clock of this machine")
        }
        Note::FlowsFull => {
            let what = "more destinations have mail in the queue than are kept in memory".into();
            (what, "the others wait until some of them are empty")
        }
        Note::Failed(partition) => {
            let what = format!("partition {partition} takes no writes: its mail is not sent");
            (what, "restart the server")
        }
    };
    Record::Warning { what: &what, remedy }.emit();
}
