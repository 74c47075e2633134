//! The load generator: `cargo bench --bench load -- MODE [options]`. See `benches/README.md`.
//!
//! A coordinator (`run`) starts the gateway (`server`) and commands workers (`control`): threads with a descriptor table
//! of their own, each an epoll loop over its share of the connections (`worker`, `client`, `traffic`). Who does what is
//! arithmetic over the index of a connection (`plan`); every message carries what is needed to check its delivery
//! (`content`); what was seen is added up (`stats`) and told (`progress`, `report`). `cluster` and
//! `register` start gateways over a Redis server (`redis`). Only `sys` is unsafe.

mod client;
mod cluster;
mod content;
mod control;
mod frame;
mod options;
mod plan;
mod progress;
mod redis;
mod register;
mod report;
mod run;
mod server;
mod stats;
mod sys;
mod traffic;
mod worker;

use std::process::ExitCode;

use clap::{CommandFactory as _, Parser as _};

use options::{Mode, Options};
use plan::Plan;
use report::Report;

fn main() -> ExitCode {
    // `cargo bench` without a mode runs every bench: this one then only says what it can do.
    if std::env::args().skip(1).all(|argument| argument == "--bench") {
        let _ = Options::command().print_help();
        return ExitCode::SUCCESS;
    }
    let options = Options::parse();
    let descriptors = sys::raise_descriptor_limit();
    let reports = Plan::new(&options, descriptors).and_then(|plan| match plan.mode {
        Mode::Cluster => cluster::run(&options, &plan),
        Mode::Register => register::run(&options, &plan).map(|report| vec![report]),
        _ => run::run(&options, &plan).map(|report| vec![report]),
    });
    match reports {
        Ok(reports) => {
            for report in &reports {
                if options.json {
                    println!("{}", report.json());
                } else {
                    print!("{}", report.table());
                }
            }
            if options.mode == Mode::Cluster && !options.json {
                print!("\n{}", cluster::comparison(&reports));
            }
            let passed = reports.iter().all(Report::passed);
            if passed || !options.check { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(why) => {
            eprintln!("load: {why}");
            ExitCode::FAILURE
        }
    }
}
