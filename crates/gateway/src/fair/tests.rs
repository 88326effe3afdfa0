use std::future::Future;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use kernel::Caller;
use testkit::TempKernel;

use super::*;

pub(super) async fn callers(home: &TempKernel, names: &[&str]) -> Vec<Admission> {
    let mut admitted = Vec::new();
    for name in names {
        let (_, token) = home.tenant(name).await.unwrap();
        let caller = Caller::from_token(token.text.expose_str().unwrap());
        admitted.push(
            home.kernel
                .admit(caller)
                .await
                .unwrap_or_else(|_| panic!("{name}")),
        );
    }
    admitted
}

fn line(slots: u32, queue: u32, wait_ms: u64) -> Arc<Line> {
    Line::new(LineSpec {
        slots,
        queue,
        wait: Duration::from_millis(wait_ms),
    })
}

fn poll<T>(future: Pin<&mut impl Future<Output = T>>) -> Poll<T> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

#[tokio::test(flavor = "current_thread")]
async fn who_hangs_up_leaves_the_line_and_a_slot_under_way_comes_back() {
    let home = TempKernel::open().await.unwrap();
    let callers = callers(&home, &["acme", "globex"]).await;
    let line = line(1, 10, 60_000);
    let mut patience = [Patience::default(); 3];
    let [one, two, three] = &mut patience;
    let held = line.slot(&callers[0], one).await.unwrap();
    let mut gone = Box::pin(line.slot(&callers[1], two));
    assert!(poll(gone.as_mut()).is_pending());
    assert_eq!(line.load(), (1, 1));
    drop(gone);
    assert_eq!(line.load(), (1, 0));
    // The slot is on its way to a waiter that goes before it looks.
    let mut gone = Box::pin(line.slot(&callers[1], two));
    assert!(poll(gone.as_mut()).is_pending());
    let mut next = pin!(line.slot(&callers[0], three));
    assert!(poll(next.as_mut()).is_pending());
    drop(held);
    assert_eq!(line.load(), (1, 1));
    drop(gone);
    let slot = next.await.unwrap();
    assert_eq!(line.load(), (1, 0));
    drop(slot);
    assert_eq!(line.load(), (0, 0));
}

#[tokio::test(flavor = "current_thread")]
async fn past_the_deadline_and_past_the_length_a_call_is_sent_away() {
    let home = TempKernel::open().await.unwrap();
    let callers = callers(&home, &["acme", "globex"]).await;
    let line = line(1, 2, 30);
    let held = line
        .slot(&callers[0], &mut Patience::default())
        .await
        .unwrap();
    let mut patience = Patience::default();
    let begun = Instant::now();
    let late = line.slot(&callers[1], &mut patience).await.err();
    assert_eq!(late, Some(Busy { retry_after_s: 1 }));
    assert!(begun.elapsed() >= Duration::from_millis(30));
    // The patience of one call is one: a further line is only asked.
    let begun = Instant::now();
    assert!(line.slot(&callers[1], &mut patience).await.is_err());
    assert!(begun.elapsed() < Duration::from_millis(20));
    let (mut one, mut two) = (Patience::default(), Patience::default());
    let mut first = pin!(line.slot(&callers[1], &mut one));
    assert!(poll(first.as_mut()).is_pending());
    let second = line.slot(&callers[1], &mut two).await;
    assert!(second.is_err(), "a tenant's second place of two");
    drop(held);
    assert!(first.await.is_ok());
    assert_eq!(line.load(), (0, 0));
}

#[tokio::test(flavor = "current_thread")]
async fn a_line_goes_on_under_a_new_size() {
    let home = TempKernel::open().await.unwrap();
    let callers = callers(&home, &["acme"]).await;
    let line = line(1, 10, 60_000);
    let mut patience = [Patience::default(); 2];
    let [one, two] = &mut patience;
    let _held = line.slot(&callers[0], one).await.unwrap();
    let mut next = pin!(line.slot(&callers[0], two));
    assert!(poll(next.as_mut()).is_pending());
    let mut spec = LineSpec {
        slots: 3,
        ..LineSpec::default()
    };
    line.resize(spec);
    let _second = next.await.unwrap();
    spec.slots = 1;
    line.resize(spec);
    assert_eq!(line.load(), (2, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nothing_is_lost_when_many_come_and_go_at_once() {
    let home = TempKernel::open().await.unwrap();
    let callers = callers(&home, &["acme", "globex", "initech"]).await;
    let line = line(5, 1_000, 60_000);
    let mut all = tokio::task::JoinSet::new();
    for worker in 0..24_u64 {
        let (line, caller) = (Arc::clone(&line), callers[worker as usize % 3].clone());
        all.spawn(async move {
            let mut taken = 0_u64;
            for round in 0..400_u64 {
                // Some give up in the line, in every phase of it.
                let patience = Duration::from_micros((worker * 31 + round * 17) % 200);
                let mut until = Patience::default();
                let slot = tokio::time::timeout(patience, line.slot(&caller, &mut until)).await;
                if let Ok(Ok(slot)) = slot {
                    assert!(line.load().0 <= 5);
                    taken += 1;
                    tokio::task::yield_now().await;
                    drop(slot);
                }
            }
            taken
        });
    }
    let mut taken = 0;
    while let Some(done) = all.join_next().await {
        taken += done.unwrap();
    }
    assert!(taken > 100, "{taken}");
    assert_eq!(line.load(), (0, 0));
    assert!(
        line.slot(&callers[0], &mut Patience::default())
            .await
            .is_ok()
    );
}
