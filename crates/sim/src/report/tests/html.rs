//! The page. What it looks like only a browser can say; this says that it holds together.

use quick_xml::Reader;
use quick_xml::events::Event;

use super::*;

/// The page is written so that a reader of XML understands it: all tags are closed, in order. No
/// tag has more than text and attributes from a list, so that no name can become a script.
pub(super) fn check(page: &str) {
    let mut reader = Reader::from_str(page);
    let (mut scripts, mut open) = (0, 0);
    loop {
        match reader.read_event().unwrap_or_else(|error| panic!("{error}: {page}")) {
            Event::Eof => break,
            Event::End(_) => open -= 1,
            event @ (Event::Start(_) | Event::Empty(_)) => {
                open += i32::from(matches!(event, Event::Start(_)));
                let (Event::Start(tag) | Event::Empty(tag)) = event else { unreachable!() };
                scripts += usize::from(tag.name().as_ref() == b"script");
                for attribute in tag.attributes() {
                    let attribute = attribute.unwrap();
                    let key = String::from_utf8(attribute.key.as_ref().to_vec()).unwrap();
                    assert!(!key.starts_with("on") && key != "src" && key != "href", "{key}");
                }
            }
            _ => {}
        }
    }
    assert_eq!((scripts, open), (1, 0));
}

#[test]
fn the_page_is_whole_and_loads_nothing() {
    let outcomes = mixed();
    let report = Report::of(side("sync.wasm", &outcomes));
    let page = report.html();
    check(&page);
    assert!(!page.contains("http://") && !page.contains("https://") && !page.contains("@import"));
    assert_eq!(page, report.html());
}

#[test]
fn each_scenario_has_its_failed_and_its_typical_runs() {
    let outcomes = mixed();
    let page = Report::of(side("sync.wasm", &outcomes)).html();
    for option in ["seed 3, median", "seed 5, slowest", "seed 1, fastest", "seed 41, failed"] {
        assert!(page.contains(option), "{option}");
    }
    // Those of the first scenario are three, those of the second two that failed and one more.
    assert_eq!(page.matches("<div class=\"run\"").count(), 6);
    assert_eq!(page.matches("Divergence: keys whose").count(), 2 * 6);
    assert!(page.contains("lacks 3 of its segments"));
    assert!(page.contains("--scenario ring-with-crashes --seed 41"));
}

#[test]
fn two_policies_stand_beside_each_other() {
    let outcomes = mixed();
    let page = Report::comparing(side("a.wasm", &outcomes), side("b.wasm", &outcomes)).html();
    check(&page);
    assert!(page.contains("<optgroup label=\"b.wasm\">"));
    assert!(page.contains("<h2>Comparison</h2>"));
}

#[test]
fn a_hundred_nodes_make_a_page_that_can_be_sent() {
    let outcomes = [testing::outcome("wan", 1, 100)];
    let page = Report::of(side("sync.wasm", &outcomes)).html();
    check(&page);
    assert!(page.len() < 1 << 20, "{} bytes", page.len());
}
