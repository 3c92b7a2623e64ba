//! The stacks of threads that compute, sleep and wait.

#![allow(clippy::unwrap_used)]

use std::{
    sync::{
        Arc, Barrier,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
};

use lyceum_stacks::Thread;

#[inline(never)]
fn computes_without_end(over: &AtomicBool, begun: &Barrier) -> u64 {
    begun.wait();
    let mut sum = 0u64;
    while !over.load(Ordering::Relaxed) {
        sum = std::hint::black_box(sum.wrapping_mul(3).wrapping_add(1));
    }
    sum
}

#[inline(never)]
fn waits_for_a_message(messages: &mpsc::Receiver<u64>, begun: &Barrier) -> u64 {
    begun.wait();
    let message = messages.recv().unwrap();
    std::hint::black_box(message)
}

fn named<'a>(threads: &'a [Thread], name: &str) -> &'a Thread {
    threads.iter().find(|thread| thread.name == name).unwrap_or_else(|| panic!("no {name}: {threads:#?}"))
}

fn has(thread: &Thread, function: &str) -> bool {
    thread.frames.as_ref().unwrap().iter().any(|frame| frame.contains(function))
}

#[test]
fn threads_say_where_they_are_and_go_on() {
    let over = Arc::new(AtomicBool::new(false));
    let begun = Arc::new(Barrier::new(3));
    let (send, messages) = mpsc::channel();
    let busy = {
        let (over, begun) = (over.clone(), begun.clone());
        thread::Builder::new().name("busy".into()).spawn(move || computes_without_end(&over, &begun)).unwrap()
    };
    let idle = {
        let begun = begun.clone();
        thread::Builder::new()
            .name("idle".into())
            .spawn(move || waits_for_a_message(&messages, &begun))
            .unwrap()
    };
    begun.wait();
    // Several who ask at once take turns, and asking again and again disturbs nothing.
    let askers: Vec<_> = (0..4)
        .map(|_| {
            thread::spawn(|| {
                for _ in 0..5 {
                    let threads = lyceum_stacks::of_all_threads().unwrap();
                    assert!(has(named(&threads, "busy"), "computes_without_end"), "{threads:#?}");
                    assert!(has(named(&threads, "idle"), "waits_for_a_message"), "{threads:#?}");
                }
            })
        })
        .collect();
    askers.into_iter().for_each(|asker| asker.join().unwrap());
    let threads = lyceum_stacks::of_all_threads().unwrap();
    let text: String = threads.iter().map(ToString::to_string).collect();
    println!("{text}");
    assert!(text.contains("stacks.rs:"), "functions have their lines: {text}");
    let own = thread::current().name().unwrap().to_owned();
    assert!(threads.iter().all(|thread| thread.name != own), "the calling thread is left out");
    assert_eq!(named(&threads, "busy").state, "running");
    send.send(7).unwrap();
    assert_eq!(idle.join().unwrap(), 7);
    over.store(true, Ordering::Relaxed);
    busy.join().unwrap();
}
