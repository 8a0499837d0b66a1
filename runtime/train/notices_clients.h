// What the clients of the clouds' services have in common. Private to notices*.c.
#ifndef LOCKSTEP_TRAIN_NOTICES_CLIENTS_H
#define LOCKSTEP_TRAIN_NOTICES_CLIENTS_H

#include <jansson.h>
#include <stdint.h>

#include "base/config.h"
#include "http/http.h"
#include "notices.h"

enum { LS_NOTICE_TOKEN_MAX = 1024, LS_NOTICE_MACHINE_MAX = 256 };

struct LsNotices {
    int kind;
    char url[LS_CONFIG_TEXT]; // of the service, without a slash at its end
    LsHttp *http;
    bool asked;                          // it has answered before
    char token[LS_NOTICE_TOKEN_MAX + 1]; // ec2; "": none
    double renewal;                      // ec2: clock at which the token is old
    bool advised;                        // ec2: the recommendation was there from the beginning
    char machine[LS_NOTICE_MACHINE_MAX]; // azure: this machine's name; "": not asked for yet
    LsHttpAnswer answer;
};

// Asks for `path` of the service with up to two headers (NULL: none). The answer is in notices->answer.
LsStatus ls_notices_request(
    LsNotices *notices, const char *method, const char *path, const char *header, double timeout);

// A whole answer that is of no use: LS_IO with code and path.
LsStatus ls_notices_refused(const LsNotices *notices, const char *path);

// The answer as a JSON object, freed by the caller; LS_IO when it is none.
LsStatus ls_notices_json(const LsNotices *notices, const char *path, json_t **out);

// Copies text of a service so that it can be printed: bounded, without control characters.
void ls_notices_copy(char *to, size_t size, const char *from);

LsStatus ls_notices_ec2(LsNotices *notices, char text[LS_NOTICE_TEXT]);
LsStatus ls_notices_gcp(LsNotices *notices, char text[LS_NOTICE_TEXT]);
LsStatus ls_notices_azure(LsNotices *notices, char text[LS_NOTICE_TEXT]);

#endif
