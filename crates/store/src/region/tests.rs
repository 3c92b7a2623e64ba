use std::collections::BTreeMap;

use proptest::prelude::*;
use proptest::sample::Index;

use super::*;

fn board() -> Board {
    Board::new(Words::create("test-board", BOARD_BYTES).unwrap().0).unwrap()
}

const PLACE: Place = Place { segment: 3, segment_bytes: 1 << 20, offset: 8192, len: 1 << 17 };

#[test]
fn a_message_goes_from_hand_to_hand_and_is_opened_once_by_its_receiver() {
    let board = board();
    let last = board.give(5, PLACE);
    let Taken::Ours(of) = board.take(5, last) else { panic!() };
    assert_eq!(board.take(5, last), Taken::Gone, "by an old use");
    assert_eq!(board.take(5, of), Taken::Busy);
    assert!(board.open(5, 2, 0).is_none(), "not sent yet");
    assert!(board.send(5, of, 2, 77, 1000));
    assert!(board.open(5, 3, 77).is_none(), "another's");
    assert!(board.open(5, 2, 78).is_none(), "not its ticket");
    let opened = board.open(5, 2, 77).unwrap();
    assert_eq!((opened.segment, opened.offset, opened.len), (3, 8192, 1000));
    assert!(board.open(5, 2, 77).is_none(), "once");
    assert_eq!(board.give_up(5, 77), Tell(false));
    assert_eq!(board.take(5, of), Taken::Busy, "it is being read");
    assert_eq!(board.release(5, opened.of), Tell(false));
    assert!(matches!(board.take(5, of), Taken::Ours(_)));
    assert_eq!(board.release(5, opened.of), Tell(false), "late, of an earlier use");
    assert_eq!(board.state(5).hand(), Some(Hand::Writing));
}

#[test]
fn what_the_agent_wants_is_taken_by_nobody_and_it_hears_when_it_is_free() {
    let board = board();
    let last = board.give(0, PLACE);
    assert!(board.want(0, false), "free");
    assert_eq!(board.take(0, last), Taken::Gone);
    let last = board.give(0, PLACE);
    let Taken::Ours(of) = board.take(0, last) else { panic!() };
    assert!(!board.want(0, false), "being written");
    assert!(board.send(0, of, 2, 9, 1));
    let opened = board.open(0, 2, 9).unwrap();
    assert_eq!(board.release(0, opened.of), Tell(true));
    assert_eq!(board.take(0, of), Taken::Gone);
    assert!(board.want(0, false), "asked again");
    // Its keeper ends while it writes; it had been sent before, and what comes late of that is nobody's.
    let last = board.give(0, PLACE);
    assert_eq!(board.take(0, of), Taken::Gone, "whoever kept it before");
    let Taken::Ours(of) = board.take(0, last) else { panic!() };
    assert!(board.want(0, true));
    assert_eq!(board.abandon(0, of), Tell(false));
    assert!(!board.send(0, of, 2, 9, 1));
}

#[test]
fn what_was_sent_to_one_who_has_ended_is_free() {
    let board = board();
    let mut last = board.give(9, PLACE);
    for opened in [false, true] {
        let Taken::Ours(of) = board.take(9, last) else { panic!() };
        last = of;
        assert!(!board.receiver_has_ended(9, 2), "not sent to it yet");
        assert!(board.send(9, of, 2, 4, 1));
        assert!(!opened || board.open(9, 2, 4).is_some());
        assert!(!board.receiver_has_ended(9, 3));
        assert!(!board.receiver_has_ended(9, 2), "freed, and still its keeper's");
        assert_eq!(board.state(9).hand(), Some(Hand::Free));
    }
    let Taken::Ours(of) = board.take(9, last) else { panic!() };
    assert!(board.send(9, of, 2, 4, 1));
    assert!(!board.want(9, true));
    assert!(board.receiver_has_ended(9, 2), "and the agent has it");
}

#[test]
fn sizes_are_few_and_waste_little() {
    assert_eq!(size_for(0), Some(64 << 10));
    assert_eq!(size_for((64 << 10) + 1), Some(128 << 10));
    assert_eq!(size_for(LARGEST), Some(LARGEST));
    assert_eq!(size_for(LARGEST + 1), None);
    assert_eq!(size_for(u64::MAX), None);
    let mut sizes = std::collections::BTreeSet::new();
    for len in (SMALLEST..=LARGEST).step_by(4096) {
        let size = size_for(len).unwrap();
        assert!(size >= len && (size - len) * 2 <= size, "{len}: {size}");
        sizes.insert(size);
    }
    assert!(sizes.len() <= 32, "{}", sizes.len());
}

/// What parties do at once, cut into its atomic steps: each party goes on from the state that it saw last.
#[derive(Debug, Clone)]
enum Step {
    /// A keeper of a use takes the region.
    Take(Index),
    Send(Index, u64),
    Abandon(Index),
    Open(Index, u64),
    Release(Index),
    GiveUp(Index),
    Want(bool),
    ReceiverEnds(u64),
    Expire,
    Give,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let index = any::<Index>;
    let step = prop_oneof![
        6 => index().prop_map(Step::Take),
        5 => (index(), 1..3u64).prop_map(|(i, r)| Step::Send(i, r)),
        1 => index().prop_map(Step::Abandon),
        5 => (index(), 1..3u64).prop_map(|(i, r)| Step::Open(i, r)),
        5 => index().prop_map(Step::Release),
        1 => index().prop_map(Step::GiveUp),
        1 => any::<bool>().prop_map(Step::Want),
        1 => (1..3u64).prop_map(Step::ReceiverEnds),
        1 => Just(Step::Expire),
        2 => Just(Step::Give),
    ];
    prop::collection::vec(step, 0..120)
}

/// Who has the bytes, as the parties themselves know it.
#[derive(Debug, Default)]
struct World {
    /// Every use that a keeper was ever given, stale ones too.
    uses: Vec<Use>,
    writing: Vec<Use>,
    /// Tickets: receiver, and whether it was opened.
    sent: BTreeMap<u64, (u64, bool)>,
    open: Vec<(Use, u64)>,
    /// The agent has it, and what it waits to hear.
    agents: bool,
    wanted: bool,
}

proptest! {
    /// R1, R2, R3: whoever comes late, and with whatever old knowledge.
    #[test]
    fn r1_to_r3_hold_whoever_acts_on_old_knowledge(steps in steps()) {
        let board = board();
        let mut world = World { uses: vec![board.give(1, PLACE)], ..World::default() };
        let pick = |len: usize, index: Index| if len == 0 { None } else { Some(index.index(len)) };
        for step in steps {
            match step {
                Step::Take(index) => {
                    let Some(at) = pick(world.uses.len(), index) else { continue };
                    if let Taken::Ours(of) = board.take(1, world.uses[at]) {
                        prop_assert!(world.writing.is_empty() && world.open.is_empty(), "R1");
                        prop_assert!(!world.agents && !world.wanted, "R1: it is the agent's");
                        prop_assert_eq!(at, world.uses.len() - 1, "only by the last use");
                        world.uses.push(of);
                        world.writing.push(of);
                    }
                }
                Step::Send(index, receiver) => {
                    let Some(at) = pick(world.writing.len(), index) else { continue };
                    let of = world.writing.swap_remove(at);
                    let ticket = 1000 + world.sent.len() as u64;
                    prop_assert!(board.send(1, of, receiver, ticket, 1));
                    world.sent.insert(ticket, (receiver, false));
                }
                Step::Abandon(index) => {
                    let Some(at) = pick(world.writing.len(), index) else { continue };
                    let of = world.writing.swap_remove(at);
                    let told = board.abandon(1, of).0;
                    prop_assert_eq!(told, world.wanted, "R3");
                    world.agents |= told;
                }
                Step::Open(index, receiver) => {
                    let Some(at) = pick(world.sent.len(), index) else { continue };
                    let (&ticket, &(to, opened)) = world.sent.iter().nth(at).unwrap();
                    if let Some(found) = board.open(1, receiver, ticket) {
                        prop_assert!(to == receiver && !opened, "R2");
                        prop_assert!(world.writing.is_empty() && world.open.is_empty() && !world.agents, "R1");
                        prop_assert_eq!(at, world.sent.len() - 1, "R2: what was freed is not opened");
                        world.sent.insert(ticket, (to, true));
                        world.open.push((found.of, receiver));
                    }
                }
                Step::Release(index) => {
                    let Some(at) = pick(world.open.len(), index) else { continue };
                    let (of, _) = world.open.swap_remove(at);
                    let told = board.release(1, of).0;
                    prop_assert_eq!(told, world.wanted, "R3");
                    world.agents |= told;
                }
                Step::GiveUp(index) => {
                    let Some(at) = pick(world.sent.len(), index) else { continue };
                    let (&ticket, _) = world.sent.iter().nth(at).unwrap();
                    let told = board.give_up(1, ticket).0;
                    prop_assert!(!told || world.wanted && world.open.is_empty() && world.writing.is_empty(), "R3");
                    world.agents |= told;
                }
                Step::Want(ended) if !world.agents => {
                    // Whoever has ended writes no more.
                    if ended {
                        world.writing.clear();
                    }
                    let has = board.want(1, ended);
                    world.wanted = true;
                    prop_assert!(!has || world.writing.is_empty() && world.open.is_empty(), "R1");
                    world.agents |= has;
                }
                Step::ReceiverEnds(receiver) if !world.agents => {
                    let has = board.receiver_has_ended(1, receiver);
                    world.open.retain(|(_, reader)| *reader != receiver);
                    prop_assert!(!has || world.wanted && world.writing.is_empty() && world.open.is_empty(), "R3");
                    world.agents |= has;
                }
                Step::Expire if !world.agents => {
                    let has = board.expire(1, board.state(1));
                    prop_assert!(!has || world.wanted && world.writing.is_empty() && world.open.is_empty(), "R3");
                    world.agents |= has;
                }
                Step::Give if world.agents => {
                    prop_assert!(world.writing.is_empty() && world.open.is_empty(), "R1");
                    world.uses.push(board.give(1, PLACE));
                    (world.agents, world.wanted) = (false, false);
                }
                Step::Want(_) | Step::ReceiverEnds(_) | Step::Expire | Step::Give => {}
            }
            let state = board.state(1);
            prop_assert!(state.hand().is_some());
            let free = world.wanted && state.hand() == Some(Hand::Free);
            prop_assert!(!free || world.agents, "R3: it is free, and the agent does not know");
        }
    }
}

/// Keepers and receivers of one region on threads of their own, beside an agent that wants it back now and then: nobody
/// ever sees the bytes of another message than his own.
#[test]
fn r1_holds_between_threads() {
    let board = board();
    let bytes = AtomicU64::new(0);
    let last = AtomicU64::new(board.give(1, PLACE).0);
    let mail = std::sync::Mutex::new(Vec::<u64>::new());
    // What the agent knows, under its lock: whether it wants the region.
    let wanted = std::sync::Mutex::new(false);
    let want = |wanted: &mut bool| {
        *wanted = true;
        if board.want(1, false) {
            *wanted = false;
            last.store(board.give(1, PLACE).0, Ordering::Release);
        }
    };
    let (read, over) = (AtomicU64::new(0), std::sync::atomic::AtomicBool::new(false));
    std::thread::scope(|scope| {
        let keeper = scope.spawn(|| {
            let mut ticket = 1;
            while read.load(Ordering::Relaxed) < 2000 {
                let before = last.load(Ordering::Acquire);
                let Taken::Ours(of) = board.take(1, Use(before)) else {
                    std::thread::yield_now();
                    continue;
                };
                // An agent that gives it anew may have come between.
                let _ = last.compare_exchange(before, of.0, Ordering::AcqRel, Ordering::Acquire);
                ticket += 1;
                bytes.store(ticket, Ordering::Relaxed);
                if board.send(1, of, 2, ticket, 8) {
                    mail.lock().unwrap().push(ticket);
                }
            }
            over.store(true, Ordering::Release);
        });
        scope.spawn(|| {
            while !over.load(Ordering::Acquire) {
                let Some(ticket) = mail.lock().unwrap().pop() else {
                    std::thread::yield_now();
                    continue;
                };
                let Some(opened) = board.open(1, 2, ticket) else { continue };
                assert_eq!(bytes.load(Ordering::Relaxed), ticket, "R1");
                read.fetch_add(1, Ordering::Relaxed);
                if board.release(1, opened.of).0 {
                    let mut wanted = wanted.lock().unwrap();
                    if *wanted {
                        want(&mut wanted);
                    }
                }
            }
        });
        scope.spawn(|| {
            while !over.load(Ordering::Acquire) {
                std::thread::yield_now();
                let mut wanted = wanted.lock().unwrap();
                if read.load(Ordering::Relaxed).is_multiple_of(7) && !*wanted {
                    want(&mut wanted);
                }
            }
        });
        keeper.join().unwrap();
    });
}
