// The notices by which a cloud says that it will take a machine away. One client asks one service about the
// machine it runs on.
//
//   ec2    token by PUT /latest/api/token (IMDSv2), then /latest/meta-data/spot/instance-action and
//          /latest/meta-data/events/recommendations/rebalance: 404 while there is nothing. A recommendation
//          that is there when the client first asks is no news: whoever started on this machine went by it.
//   gcp    /computeMetadata/v1/instance/preempted: TRUE or FALSE.
//   azure  /metadata/scheduledevents: events of type Preempt, Terminate, Reboot and Redeploy that name this
//          machine, from two minutes before their time on; some are announced days ahead. The machine's name
//          is that of /metadata/instance/compute/name, or the host's where the service has none.
#ifndef LOCKSTEP_TRAIN_NOTICES_H
#define LOCKSTEP_TRAIN_NOTICES_H

#include "base/status.h"

enum { LS_NOTICE_TEXT = 256 };

typedef struct LsNotices LsNotices;

// kind: LsNoticeKind, not none. url: where the service is, "http://127.0.0.1:8080"; NULL or "": the cloud's
// own address. LS_UNAVAILABLE in a build without libcurl.
LsStatus ls_notices_create(int kind, const char *url, LsNotices **out);
void ls_notices_destroy(LsNotices *notices); // accepts NULL

// Asks once; takes two seconds at most, but for Azure's first answer, which the service may delay by two
// minutes. LS_OK: `text` is the notice as a phrase ("EC2 will terminate this machine at …"), "" when there is
// none. LS_IO, with a sentence, when the service cannot be reached, refuses or makes no sense.
LsStatus ls_notices_ask(LsNotices *notices, char text[LS_NOTICE_TEXT]);

// From any other thread: the question under way ends at once, with LS_IO, and so does every later one.
void ls_notices_interrupt(LsNotices *notices);

#endif
