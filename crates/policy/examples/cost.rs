//! Prints what a decision costs: `cargo run -p policy --release --example cost`.

#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "figures are what it is for"
)]

use std::sync::Arc;
use std::time::Instant;

use base::{Role, Timestamp};
use policy::{Act, BASE, Layers, ModelList, Origin, Principal, Request, Rules};

fn layers(own: &str) -> Layers {
    let list = ModelList::from(vec!["small".to_owned(), "large".to_owned()]);
    Layers::new(vec![
        Arc::new(Rules::read(Origin::Base, BASE).unwrap()),
        list.rules().unwrap(),
        Arc::new(Rules::read(Origin::Tenant, own).unwrap()),
    ])
}

/// Two hundred rules; all of them are looked at for every call, or each names a model of its own.
fn two_hundred(named: bool) -> String {
    (0..200)
        .map(|n| match named {
            true => format!("forbid (principal in Person::\"p{n}\", action == Action::\"call_model\", resource == Model::\"m{n}\");\n"),
            false => format!("forbid (principal in Person::\"p{n}\", action == Action::\"call_model\", resource) when {{ context.tools }};\n"),
        })
        .collect()
}

fn micros(times: u32, mut work: impl FnMut()) -> f64 {
    let start = Instant::now();
    for _ in 0..times {
        work();
    }
    start.elapsed().as_secs_f64() * 1e6 / f64::from(times)
}

fn main() {
    let now = Timestamp::from_unix_ms(1_790_000_000_000);
    let request = Request {
        principal: Principal {
            role: Role::App,
            token: Some("ci"),
            person: Some("alice"),
        },
        act: Act::CallModel {
            model: "small",
            providers: &[],
            regions: &[],
            operation: "chat.completions",
            stream: false,
            tools: false,
        },
    };
    for (name, own) in [
        ("no own rules", String::new()),
        ("200 rules for all models", two_hundred(false)),
        ("200 rules for one model each", two_hundred(true)),
    ] {
        let read = micros(20, || drop(Rules::read(Origin::Tenant, &own)));
        let layers = layers(&own);
        let cold = micros(2_000, || drop(layers.decide_anew(&request, now)));
        let warm = micros(200_000, || drop(layers.decide(&request, now)));
        println!("{name}: read {read:.0} us, cold {cold:.1} us, warm {warm:.2} us");
    }
}
