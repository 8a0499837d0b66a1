# The seams between the layers: what a layer may include, and where headers of other libraries may appear.

# A source of layer `layer` that includes `header`, compiled with exactly the include path that the layer has.
function(lockstep_include_test layer header allowed)
  string(MAKE_C_IDENTIFIER "${layer} ${header}" name)
  set(source ${CMAKE_CURRENT_BINARY_DIR}/layers/${name}.c)
  file(CONFIGURE OUTPUT ${source} CONTENT "#include \"${header}\"\nextern int nothing_else_to_declare;\n")
  add_library(layer_${name} OBJECT EXCLUDE_FROM_ALL ${source})
  target_link_libraries(layer_${name} PRIVATE lockstep_flags lockstep_${layer})
  add_test(NAME layers/${name} COMMAND ${CMAKE_COMMAND} --build ${CMAKE_BINARY_DIR} --target layer_${name})
  # Two builds in one folder at the same time would wait for each other's lock or trip over it.
  set_tests_properties(layers/${name} PROPERTIES TIMEOUT 60 LABELS "unit;layers" RESOURCE_LOCK build-folder)
  if(NOT allowed)
    string(REPLACE "." "\\." pattern "${header}")
    set_tests_properties(layers/${name} PROPERTIES
      PASS_REGULAR_EXPRESSION "${pattern}: No such file|'${pattern}' file not found")
  endif()
endfunction()

# One header of each layer, and for each layer those it may include (the table of docs/architecture.md).
set(layer_names base device collectives models data train)
set(header_base base/status.h)
set(header_device device/device.h)
set(header_collectives collectives/comm.h)
set(header_models models/model.h)
set(header_data data/dataset.h)
set(header_train train/trainer.h)
set(uses_base base)
set(uses_device base device)
set(uses_collectives base device collectives)
set(uses_models base device models)
set(uses_data base data)
set(uses_train base device collectives models data train)

foreach(layer IN LISTS layer_names)
  foreach(other IN LISTS layer_names)
    set(allowed FALSE)
    if(other IN_LIST uses_${layer})
      set(allowed TRUE)
    endif()
    lockstep_include_test(${layer} ${header_${other}} ${allowed})
  endforeach()
endforeach()

add_test(NAME layers/library_headers
  COMMAND /usr/bin/python3 ${CMAKE_CURRENT_LIST_DIR}/library_headers.py ${PROJECT_SOURCE_DIR})
set_tests_properties(layers/library_headers PROPERTIES TIMEOUT 60 LABELS "unit;layers")
