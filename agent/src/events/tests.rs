//! Readers of the ring: in order, nothing twice, told what they missed.

use std::pin::pin;

use futures_util::StreamExt as _;

use super::*;

fn event(container: usize) -> Event {
    let (r#type, container) = (Some("CONTAINER_STARTED".to_owned()), Some(container.to_string()));
    Event { r#type, container, ..Event::default() }
}

fn none(_: Option<f64>) -> Vec<Event> {
    Vec::new()
}

async fn all(events: &Arc<Events>, from: Begin) -> Vec<Event> {
    let until = Some(now() + 0.05);
    let reading = read(events.clone(), Filter::default(), from, until, none).collect();
    tokio::time::timeout(Duration::from_secs(30), reading).await.expect("it ends at its time")
}

fn from_the_first(events: &Events) -> Begin {
    Begin::After { position: events.position(0), since: None }
}

fn containers(events: &[Event]) -> Vec<&str> {
    events.iter().map(Event::container).collect()
}

#[tokio::test]
async fn a_fast_reader_misses_nothing_of_many_writers() {
    let events = Arc::new(Events::new(REMEMBERED));
    let reading = tokio::spawn({
        let events = events.clone();
        async move {
            {
                let from = from_the_first(&events);
                read(events, Filter::default(), from, None, none)
            }
            .take(1_000)
            .collect::<Vec<_>>()
            .await
        }
    });
    let writers: Vec<_> = (0..4)
        .map(|writer| {
            let events = events.clone();
            std::thread::spawn(move || (0..250).for_each(|number| events.tell(event(writer * 250 + number))))
        })
        .collect();
    let read = tokio::time::timeout(Duration::from_secs(30), reading).await.expect("all arrive").unwrap();
    writers.into_iter().for_each(|writer| writer.join().unwrap());
    let sequence = |event: &Event| event.position.as_ref().unwrap().sequence();
    assert!(read.iter().map(sequence).eq(1..=1_000), "in order, each once");
    let mut seen: Vec<usize> = read.iter().map(|event| event.container().parse().unwrap()).collect();
    seen.sort_unstable();
    assert!(seen.into_iter().eq(0..1_000));
}

#[tokio::test]
async fn a_slow_reader_is_told_how_many_it_missed() {
    let events = Arc::new(Events::new(3));
    let began = events.began;
    let mut reading = pin!(read(events.clone(), Filter::default(), from_the_first(&events), None, none));
    events.tell(event(0));
    assert_eq!(reading.next().await.unwrap().container(), "0");
    (1..=10).for_each(|number| events.tell(event(number)));
    let missed = reading.next().await.unwrap();
    assert_eq!((missed.r#type(), missed.missed), ("MISSED", Some(7)));
    for number in 8..=10 {
        assert_eq!(reading.next().await.unwrap().container(), number.to_string());
    }
    assert_eq!(events.ring().events.len(), 3, "memory stays bounded");
    // Whoever asks for what is forgotten is told so, without a number: it may be of an earlier agent.
    let read = all(&events, Begin::Since(began)).await;
    assert_eq!((read[0].r#type(), read[0].missed), ("MISSED", None));
    assert_eq!(containers(&read[1..]), ["8", "9", "10"]);
    let fresh = Arc::new(Events::new(3));
    assert!(all(&fresh, Begin::Since(fresh.began)).await.is_empty(), "nothing was forgotten");
    assert_eq!(all(&fresh, Begin::Since(fresh.began - 1.0)).await[0].r#type(), "MISSED", "an earlier agent's time");
}

#[tokio::test]
async fn reading_goes_on_where_it_was() {
    let events = Arc::new(Events::new(10));
    (1..=4).for_each(|number| events.tell(event(number)));
    let position = events.position(2);
    assert_eq!(containers(&all(&events, Begin::After { position, since: None }).await), ["3", "4"]);
    assert!(all(&events, Begin::Now).await.is_empty());
    let ahead = events.position(99);
    assert!(all(&events, Begin::After { position: ahead, since: None }).await.is_empty(), "nonsense does no harm");
}

#[tokio::test]
async fn another_life_is_answered_with_the_states_of_tasks() {
    let events = Arc::new(Events::new(10));
    events.tell(event(1));
    let position = EventPosition { epoch: Some("another".into()), sequence: Some(7) };
    let states = |since: Option<f64>| {
        assert_eq!(since, Some(5.0));
        let state =
            |task: &str| Event { r#type: Some("TASK_STATUS".into()), task_arn: Some(task.into()), ..Event::default() };
        vec![state("a"), state("b")]
    };
    let filter = Filter { tasks: vec!["b".into()], ..Filter::default() };
    let from = Begin::After { position, since: Some(5.0) };
    let read: Vec<_> = read(events.clone(), filter, from, Some(now()), states).collect().await;
    let kinds: Vec<_> = read.iter().map(|event| (event.r#type(), event.task_arn())).collect();
    assert_eq!(kinds, [("RESYNC", ""), ("TASK_STATUS", "b")]);
    assert_eq!(read[0].position, Some(events.position(1)));
}

#[test]
fn filters_join_lists_by_and_and_members_by_or() {
    let event = Event {
        r#type: Some("CONTAINER_EXITED".into()),
        task_definition_arn: Some("arn:aws:ecs:local:000000000000:task-definition/web:3".into()),
        container: Some("a".into()),
        ..Event::default()
    };
    let words = |words: &[&str]| words.iter().map(ToString::to_string).collect::<Vec<_>>();
    let filter = Filter { families: words(&["web"]), containers: words(&["b", "a"]), ..Filter::default() };
    assert!(filter.passes(&event));
    assert!(!Filter { types: words(&["TASK_STATUS"]), ..filter }.passes(&event));
    assert!(!Filter { families: words(&["we"]), ..Filter::default() }.passes(&event));
}

#[tokio::test]
async fn a_position_that_nobody_gave_is_one_before_all_others() {
    let events = Arc::new(Events::new(4));
    (0..10).for_each(|number| events.tell(event(number)));
    for sequence in [i64::MIN, -5, -1] {
        let read = all(&events, Begin::After { position: events.position(sequence), since: None }).await;
        assert_eq!(read[0].r#type(), "MISSED", "{sequence}");
        assert_eq!(containers(&read[1..]), ["6", "7", "8", "9"], "{sequence}");
    }
}
