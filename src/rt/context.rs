//! The runtime's state of one shard, stored in its thread.
//!
//! Owner:    the shard's thread. Set before the first task runs, removed after the last.

use std::cell::Cell;
use std::cell::RefCell;
use std::rc::Rc;

use glommio::TaskQueueHandle;

use crate::rt::wheel::Wheel;

/// Called on the shard's thread with the cause of the shard's death.
pub type OnDeath = Box<dyn FnOnce(&str) + Send>;

/// Called with the text of a task's panic.
pub(in crate::rt) type OnPanic = Rc<dyn Fn(&str)>;

pub(in crate::rt) struct Shard {
    /// Tasks that have not ended.
    pub(in crate::rt) live: Cell<usize>,
    /// Tasks that ended by a panic.
    pub(in crate::rt) panics: Cell<u64>,
    pub(in crate::rt) on_panic: RefCell<Option<OnPanic>>,
    pub(in crate::rt) latency_queue: Cell<TaskQueueHandle>,
    pub(in crate::rt) wheel: Rc<Wheel>,
    pub(in crate::rt) tick_callbacks: RefCell<Vec<Box<dyn FnMut()>>>,
    /// The ticker must stop.
    pub(in crate::rt) ending: Cell<bool>,
    /// The ticker is running.
    pub(in crate::rt) ticking: Cell<bool>,
    on_death: Cell<Option<OnDeath>>,
}

thread_local! {
    static SHARD: RefCell<Option<Rc<Shard>>> = const { RefCell::new(None) };
}

impl Shard {
    /// Makes the current thread a shard.
    pub(in crate::rt) fn enter(on_death: OnDeath) -> Rc<Shard> {
        let shard = Rc::new(Shard {
            live: Cell::new(0),
            panics: Cell::new(0),
            on_panic: RefCell::new(None),
            latency_queue: Cell::new(TaskQueueHandle::default()),
            wheel: Rc::new(Wheel::new()),
            tick_callbacks: RefCell::new(Vec::new()),
            ending: Cell::new(false),
            ticking: Cell::new(false),
            on_death: Cell::new(Some(on_death)),
        });
        SHARD.with_borrow_mut(|slot| *slot = Some(Rc::clone(&shard)));
        shard
    }

    /// Ends the shard of the current thread.
    pub(in crate::rt) fn leave() {
        SHARD.with_borrow_mut(|slot| *slot = None);
    }

    /// The shard of this thread.
    pub(in crate::rt) fn current() -> Rc<Shard> {
        let shard = SHARD.with_borrow(|slot| slot.as_ref().map(Rc::clone));
        shard.expect("only code on a shard calls this")
    }

    /// Counts the panic of a task and calls the hook.
    pub(in crate::rt) fn count_panic(&self, what: &str) {
        self.panics.set(self.panics.get() + 1);
        let hook = self.on_panic.borrow().as_ref().map(Rc::clone);
        if let Some(hook) = hook {
            hook(what);
        }
    }

    /// Calls the death hook, once. State that the shard shares is lost.
    pub(in crate::rt) fn die(&self, what: &str) {
        if let Some(on_death) = self.on_death.take() {
            on_death(what);
        }
    }

    pub(in crate::rt) fn run_tick_callbacks(&self) {
        let mut callbacks = self.tick_callbacks.take();
        for callback in &mut callbacks {
            callback();
        }
        let added = self.tick_callbacks.replace(callbacks);
        self.tick_callbacks.borrow_mut().extend(added);
    }
}
